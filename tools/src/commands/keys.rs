//! Keys from a file or standard input, one a line as `kvof list` prints them, and many operations on them at once.

use std::{
    cell::Cell,
    fs::File,
    future::Future,
    io::{self, BufRead, BufReader},
    path::Path,
    pin::pin,
};

use anyhow::{Context, Result};
use futures_util::{StreamExt, stream};
use kvof_initiator::Key;

use crate::failure::usage;

/// Operations in flight when there are many keys.
pub(crate) const IN_FLIGHT: usize = 32;
/// Longest line of a key: 16 bytes in hexadecimal digits or text, and the longest prefix.
const LINE_MAX: u64 = 64;

/// Lines of keys, read as they are needed.
pub(crate) struct KeyLines {
    source: Box<dyn BufRead>,
    name: String,
    number: u64,
}

impl KeyLines {
    /// The lines of `path`; `-` is standard input.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::new(BufReader::new(io::stdin()), "standard input"));
        }
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self::new(BufReader::new(file), &path.display().to_string()))
    }

    fn new(source: impl BufRead + 'static, name: &str) -> Self {
        Self { source: Box::new(source), name: name.to_owned(), number: 0 }
    }

    fn read(&mut self) -> Result<Option<Key>> {
        use io::Read;
        loop {
            let mut line = Vec::new();
            self.source
                .by_ref()
                .take(LINE_MAX)
                .read_until(b'\n', &mut line)
                .with_context(|| format!("cannot read {}", self.name))?;
            if line.is_empty() {
                return Ok(None);
            }
            self.number += 1;
            let wrong = |what: String| usage(format!("{}, line {}: {what}", self.name, self.number));
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                continue;
            }
            let text = std::str::from_utf8(line).map_err(|_| wrong("the key is no text; write 0x… instead".into()))?;
            return Key::parse(text).map(Some).map_err(|error| wrong(error.to_string()));
        }
    }
}

impl Iterator for KeyLines {
    type Item = Result<Key>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// Does `operation` with each key, many at once, and tells `report` of each in the order of the keys. After the first
/// error nothing more is begun, and what was begun is still ended and reported.
pub(crate) async fn for_each<T, F>(
    keys: impl Iterator<Item = Result<Key>>,
    operation: impl Fn(Key) -> F,
    mut report: impl FnMut(Key, T) -> Result<()>,
) -> Result<()>
where
    F: Future<Output = kvof_initiator::Result<T>>,
{
    let stopped = Cell::new(false);
    let keys = keys.take_while(|_| !stopped.get()).inspect(|key| stopped.set(stopped.get() || key.is_err()));
    let started = stream::iter(keys).map(|key| {
        let started = key.map(|key| (key, operation(key)));
        async {
            let (key, future) = started?;
            let outcome = future.await.with_context(|| key.to_string())?;
            anyhow::Ok((key, outcome))
        }
    });
    let mut answers = pin!(started.buffered(IN_FLIGHT));
    let mut result = Ok(());
    while let Some(answer) = answers.next().await {
        let reported = answer.and_then(|(key, outcome)| report(key, outcome));
        stopped.set(stopped.get() || reported.is_err());
        result = result.and(reported);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &'static str) -> Result<Vec<Key>> {
        KeyLines::new(text.as_bytes(), "keys").collect()
    }

    #[test]
    fn a_key_a_line() {
        let keys = lines("a\r\n\n0x00ff\nlast key").unwrap();
        let keys: Vec<&[u8]> = keys.iter().map(Key::as_bytes).collect();
        assert_eq!(keys, [&b"a"[..], &[0, 0xff], b"last key"]);
    }

    #[test]
    fn nothing_is_begun_after_an_error_and_what_was_begun_is_reported() {
        let begun = Cell::new(0);
        let mut reported = Vec::new();
        let operation = |key: Key| {
            begun.set(begun.get() + 1);
            async move {
                match key.as_bytes() {
                    b"bad" => Err(kvof_initiator::Error::Closed),
                    _ => Ok(()),
                }
            }
        };
        let all: &'static str = Box::leak(format!("a\nbad\nc\n{}", "d\n".repeat(1000)).into_boxed_str());
        let keys = KeyLines::new(all.as_bytes(), "keys");
        let result = kvof_initiator::blocking::block_on(for_each(keys, operation, |key, ()| {
            reported.push(key.to_string());
            Ok(())
        }));
        assert_eq!(result.unwrap_err().to_string(), "bad");
        assert_eq!(begun.get(), reported.len() + 1);
        assert!(begun.get() <= IN_FLIGHT + 2 && reported[..2] == ["a", "c"], "{begun:?}");
    }

    #[test]
    fn a_wrong_line_is_named() {
        let error = lines("a\n0xz\n").unwrap_err();
        assert!(error.to_string().starts_with("keys, line 2: key \"0xz\""), "{error}");
        assert!(lines("0123456789abcdefg").is_err());
        let endless: &'static str = Box::leak("x".repeat(1000).into_boxed_str());
        assert!(lines(endless).is_err());
    }
}
