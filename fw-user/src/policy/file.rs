//! Files that an operator names: read as a whole, but no device, and not without bound.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

const MEGABYTE: u64 = 1 << 20;

/// Bytes of a policy file, at most.
pub(super) const POLICY: u64 = 64 * MEGABYTE;

/// Bytes of a set file, at most: as many prefixes as the largest table holds, written as long as they can be.
pub(super) const SET: u64 = 1024 * MEGABYTE;

/// The content of a regular file of at most `most` bytes.
pub(super) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    // Asked before it is opened: opening a pipe would wait for a writer.
    let found = fs::metadata(path)?;
    if found.is_dir() {
        return Err(io::Error::from(io::ErrorKind::IsADirectory));
    }
    // /dev/null is an empty file to many; what has no end shows that soon.
    let most = match () {
        () if found.is_file() => most,
        () if found.file_type().is_char_device() => most.min(MEGABYTE),
        () => return Err(io::Error::other("it is not a regular file (a pipe, a socket or a disk)")),
    };
    let mut content = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut content)?;
    if content.len() as u64 > most {
        return Err(io::Error::other(format!("it is longer than {} MB", most / MEGABYTE)));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_is_not_read() {
        let refused = |path: &str, most| read(Path::new(path), most).expect_err("refused").to_string();
        assert!(refused("/dev/zero", POLICY).contains("longer than 1 MB"));
        assert_eq!(read(Path::new("/dev/null"), 10).expect("empty"), b"");
        assert_eq!(read(Path::new("/"), 10).expect_err("refused").kind(), io::ErrorKind::IsADirectory);
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("set");
        fs::write(&path, "0123456789").expect("a file");
        assert_eq!(read(&path, 10).expect("it fits"), b"0123456789");
        assert!(read(&path, 9).expect_err("refused").to_string().contains("longer than"));
    }
}
