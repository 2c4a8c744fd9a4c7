//! What this machine has.

use std::fs;

/// What this machine has for the target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Machine {
    /// Processors that this process may run on; at least one, ascending.
    pub(super) cpus: Vec<usize>,
    /// Bytes of memory, if known.
    pub(super) memory: Option<u64>,
}

impl Machine {
    /// This machine.
    pub(super) fn here() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let listed = field(&status, "Cpus_allowed_list:").map(parse_ranges).unwrap_or_default();
        let cpus = if listed.is_empty() {
            (0..std::thread::available_parallelism().map_or(1, usize::from)).collect()
        } else {
            listed
        };
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory = field(&meminfo, "MemTotal:")
            .and_then(|text| text.strip_suffix("kB"))
            .and_then(|text| text.trim().parse::<u64>().ok())
            .and_then(|kib| kib.checked_mul(1024));
        Self { cpus, memory }
    }
}

/// `numbers` as the kernel writes lists: `0-3,8`.
pub(super) fn ranges(numbers: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for &number in numbers {
        match parts.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => parts.push((number, number)),
        }
    }
    let parts: Vec<String> =
        parts.into_iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") }).collect();
    parts.join(",")
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// The numbers of a list such as `0-3,8`; empty if it is none.
fn parse_ranges(text: &str) -> Vec<usize> {
    let mut numbers = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) else { return Vec::new() };
        // The kernel supports some thousands of processors; anything else is no such list.
        if last < first || last > 1 << 16 {
            return Vec::new();
        }
        numbers.extend(first..=last);
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        assert_eq!(parse_ranges("0-3,8"), [0, 1, 2, 3, 8]);
        assert_eq!(ranges(&[0, 1, 2, 3, 8]), "0-3,8");
        for wrong in ["", "x", "3-1", "0-99999999", "1,,2"] {
            assert!(parse_ranges(wrong).is_empty(), "{wrong}");
        }
    }

    #[test]
    fn this_machine_has_processors_and_memory() {
        let machine = Machine::here();
        assert!(!machine.cpus.is_empty());
        assert!(machine.memory.is_some_and(|bytes| bytes > 1 << 24));
    }
}
