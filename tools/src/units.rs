//! Sizes and times as people write and read them.

use std::time::Duration;

const BINARY: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// Reads a number of bytes: `512`, `4KiB`, `4k`, `2MiB`, `1.5GiB`; `kB`, `MB`, `GB` and `TB` are powers of 1000.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split_unit(text);
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(format!("{unit:?} is no unit of size; write 512, 4KiB, 2MiB or 1GiB")),
    };
    let wrong = || format!("{text:?} is no size; write 512, 4KiB, 2MiB or 1GiB");
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(wrong);
    }
    let bytes = number.parse::<f64>().map_err(|_| wrong())? * factor as f64;
    if bytes.is_finite() && (0.0..1e18).contains(&bytes) && bytes.fract() == 0.0 {
        Ok(bytes as u64)
    } else {
        Err(wrong())
    }
}

/// As [`parse_size`], at most 4 GiB - 1.
pub(crate) fn parse_size_u32(text: &str) -> Result<u32, String> {
    u32::try_from(parse_size(text)?).map_err(|_| format!("{text} is more than the 4 GiB - 1 of one command"))
}

/// Reads a time: `10` (seconds), `10s`, `1.5s`, `250ms`, `2m`, `1h`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let factor = match unit {
        "" | "s" => 1.0,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{unit:?} is no unit of time; write 10s, 250ms or 2m")),
    };
    let wrong = || format!("{text:?} is no time; write 10s, 250ms or 2m");
    let seconds = number.parse::<f64>().map_err(|_| wrong())? * factor;
    // Longer than a century is a slip of the pen, and further arithmetic stays in range.
    if seconds < 4e9 { Duration::try_from_secs_f64(seconds).map_err(|_| wrong()) } else { Err(wrong()) }
}

fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

/// A size for people: `512 B`, `4 KiB`, `1.50 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    for (unit, factor) in BINARY {
        if bytes >= factor {
            let number = if bytes.is_multiple_of(factor) {
                format!("{}", bytes / factor)
            } else {
                format!("{:.2}", bytes as f64 / factor as f64)
            };
            return format!("{number} {unit}");
        }
    }
    format!("{bytes} B")
}

/// A time for people: `850 µs`, `12.3 ms`, `4.56 s`, `15 s`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let (number, unit) = match seconds {
        0.0 => return "0 s".to_owned(),
        s if s < 1e-3 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    let digits = if number < 10.0 {
        2
    } else if number < 100.0 {
        1
    } else {
        0
    };
    let text = format!("{number:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} {unit}")
}

/// `1 key`, `2 keys`.
pub(crate) fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("4KiB", 4096),
            ("4k", 4096),
            ("4 KiB", 4096),
            ("2MiB", 2 << 20),
            ("1.5GiB", 3 << 29),
            ("1GB", 1_000_000_000),
            ("7B", 7),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "KiB", "4 KB/s", "-1", "1.0001k", "99999999999GiB", "4qib", "1e3", "0x10"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert!(parse_size_u32("4GiB").is_err());
    }

    #[test]
    fn times_are_read() {
        for (text, ms) in [("10", 10_000), ("1.5s", 1500), ("250ms", 250), ("2m", 120_000), ("0", 0), ("1h", 3_600_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "-1s", "1d", "99999999999999h", "1..2s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn quantities_are_shown() {
        assert_eq!(
            [0, 100, 4096, 1536, 2 << 20, 3 << 29].map(size).join(", "),
            "0 B, 100 B, 4 KiB, 1.50 KiB, 2 MiB, 1.50 GiB"
        );
        let shown: Vec<_> = [0, 850, 12_345, 150_000, 4_560_000, 15_000_000, 100_000_000]
            .map(|us| duration(Duration::from_micros(us)))
            .into();
        assert_eq!(shown.join(", "), "0 s, 850 µs, 12.3 ms, 150 ms, 4.56 s, 15 s, 100 s");
        assert_eq!(count(1, "key", "keys") + ", " + &count(2, "key", "keys"), "1 key, 2 keys");
    }
}
