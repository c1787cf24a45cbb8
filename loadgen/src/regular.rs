//! Reading of files that the user names.
//!
//! A FIFO blocks whoever opens it until somebody writes, a device may never end, and some act when
//! they are opened. So the file is opened without blocking, and what was opened is examined:
//! between two looks at a name it may become another file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FileType, OFlags, fstat};

/// Largest file that is read: a session has a few MiB, the recording of a long proof some 100 MiB.
const MAX_BYTES: u64 = 1 << 30;

/// Opens the regular file at `path` for reading; a symbolic link to one will do.
///
/// # Errors
/// Fails where the file cannot be opened, where it is no regular file, and where it is too large.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    open_up_to(path, MAX_BYTES)
}

fn open_up_to(path: &Path, most: u64) -> io::Result<File> {
    // The standard library adds O_CLOEXEC.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let opened = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path);
    let file = opened.map_err(|error| match error.raw_os_error() {
        Some(code) if code == rustix::io::Errno::NXIO.raw_os_error() => refused("a socket"),
        _ => error,
    })?;
    let found = fstat(&file)?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(refused("a directory")),
        FileType::Fifo => return Err(refused("a FIFO")),
        FileType::Socket => return Err(refused("a socket")),
        FileType::CharacterDevice | FileType::BlockDevice => return Err(refused("a device")),
        _ => return Err(refused("something else")),
    }
    let size = u64::try_from(found.st_size).unwrap_or(0);
    if size > most {
        let text = format!("it has {} MiB, and at most {} are read", size >> 20, most >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(file)
}

/// Reads the text of the regular file at `path`.
///
/// # Errors
/// As [`open`], and where the file is not UTF-8.
pub(crate) fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    // It may grow while it is read.
    open(path)?.take(MAX_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

fn refused(kind: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("it is {kind}, and only regular files are read"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    use rustix::fs::{CWD, Mode, mkfifoat};

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("sparring-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).expect("a temporary folder");
            Self(folder)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn reads_regular_files_alone() {
        let folder = Folder::new("regular");
        let (file, link, fifo, socket) =
            (folder.0.join("file"), folder.0.join("link"), folder.0.join("fifo"), folder.0.join("socket"));
        fs::write(&file, "text").expect("written");
        std::os::unix::fs::symlink(&file, &link).expect("linked");
        mkfifoat(CWD, &fifo, Mode::RUSR | Mode::WUSR).expect("made");
        let _listener = UnixListener::bind(&socket).expect("bound");
        for path in [&file, &link] {
            assert_eq!(text(path).expect("regular"), "text");
        }
        for (path, kind) in [
            (fifo.as_path(), "a FIFO"),
            (&socket, "a socket"),
            (&folder.0, "a directory"),
            (Path::new("/dev/zero"), "a device"),
        ] {
            let error = text(path).expect_err(kind).to_string();
            assert!(error.contains(&format!("it is {kind}, and only regular files")), "{error}");
        }
        assert_eq!(text(&folder.0.join("none")).expect_err("missing").kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn refuses_a_file_that_is_too_large() {
        let folder = Folder::new("large");
        let path = folder.0.join("sparse");
        File::create(&path).and_then(|file| file.set_len(MAX_BYTES + 1)).expect("a sparse file");
        let error = text(&path).expect_err("too large").to_string();
        assert!(error.contains("it has 1024 MiB, and at most 1024 are read"), "{error}");
        assert!(open_up_to(&path, MAX_BYTES + 1).is_ok());
    }
}
