//! Whether a disk has room for what can be refused. A part of it is kept for what cannot: SQLite needs room to remove rows, too, so a file
//! that has filled its disk with what comes in could not be emptied any more.

use std::path::Path;

use super::group_commit::WriteError;

/// So much is kept, in bytes.
const KEPT_BYTES: u64 = 64 << 20;
/// Of a small disk no more than this part.
const KEPT_PART: u64 = 16;

/// [`WriteError::DiskFull`] when the disk of this directory has no more than what is kept. One that does not say how much it has is
/// written to.
pub fn has_room(directory: &Path) -> Result<(), WriteError> {
    let Ok(disk) = rustix::fs::statvfs(directory) else { return Ok(()) };
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    leaves_room(bytes(disk.f_bavail), bytes(disk.f_blocks))
}

fn leaves_room(free: u64, all: u64) -> Result<(), WriteError> {
    let kept = KEPT_BYTES.min(all / KEPT_PART);
    if free >= kept {
        return Ok(());
    }
    let text = format!("{free} of {all} bytes are free, and {kept} are kept for the work on what was accepted");
    Err(WriteError::DiskFull(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_disk_is_kept_and_of_a_large_one_no_more_than_is_needed() {
        for (free, all, has_room) in [
            (1 << 30, 1 << 40, true),
            (64 << 20, 1 << 40, true),
            ((64 << 20) - 1, 1 << 40, false),
            (1 << 20, 16 << 20, true),
            ((1 << 20) - 1, 16 << 20, false),
            (0, 16 << 20, false),
            // It does not say.
            (0, 0, true),
            (u64::MAX, u64::MAX, true),
        ] {
            assert_eq!(leaves_room(free, all).is_ok(), has_room, "{free} of {all}");
        }
        let error = leaves_room(7, 16 << 20).unwrap_err();
        assert!(
            matches!(&error, WriteError::DiskFull(text) if text.contains("7 of 16777216 bytes are free")),
            "{error}"
        );
    }

    #[test]
    fn a_directory_that_is_none_is_no_full_disk() {
        has_room(Path::new("/nowhere/at/all")).unwrap();
        has_room(&std::env::temp_dir()).unwrap();
    }
}
