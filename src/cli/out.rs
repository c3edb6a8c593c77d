//! What commands print. In: text. Out: the same on standard output, or an error that says why it is not there.

use std::io::{self, Write};

use anyhow::Context as _;
use serde::Serialize;

/// Prints it. Whoever reads it and has gone, like `head`, has had what was wanted.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    write(&mut io::stdout().lock(), text)
}

/// Prints it as JSON, for people to read too.
pub(super) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

fn write(out: &mut impl Write, text: &str) -> anyhow::Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("write to standard output"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes nothing, for this reason.
    struct Closed(io::ErrorKind);

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(self.0.into())
        }
    }

    #[test]
    fn a_reader_that_has_gone_is_no_error_and_a_full_disk_is_one() {
        assert!(write(&mut Closed(io::ErrorKind::BrokenPipe), "x").is_ok());
        let error = write(&mut Closed(io::ErrorKind::StorageFull), "x").unwrap_err();
        assert!(format!("{error:#}").starts_with("write to standard output: "), "{error:#}");
        let mut out = Vec::new();
        write(&mut out, "x\n").unwrap();
        assert_eq!(out, b"x\n");
    }
}
