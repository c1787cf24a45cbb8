//! Reading of files that the user names.
//!
//! A FIFO blocks its reader until a writer comes, a device may never end, and some devices act
//! when they are opened: a watchdog is armed. So the name is resolved without opening the file
//! (`O_PATH`), and what it leads to is examined. The same file is then opened through its
//! descriptor, since the name may lead to another one by then.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, fstat, open as open_with};

/// Largest file that is read: a session has a few MiB, the recording of a long proof some 100 MiB.
const MAX_BYTES: u64 = 1 << 30;

/// Opens the regular file at `path` for reading; a symbolic link to one will do. Fails if it is
/// no regular file, and where it is too large.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let resolved = open_with(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let found = fstat(&resolved)?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(refused("a directory")),
        FileType::Fifo => return Err(refused("a FIFO")),
        FileType::Socket => return Err(refused("a socket")),
        FileType::CharacterDevice | FileType::BlockDevice => return Err(refused("a device")),
        _ => return Err(refused("something else")),
    }
    let size = u64::try_from(found.st_size).unwrap_or(0);
    if size > MAX_BYTES {
        let text = format!("it has {} MiB, and at most {} are read", size >> 20, MAX_BYTES >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    File::open(format!("/proc/self/fd/{}", resolved.as_raw_fd()))
}

/// Reads the text of the regular file at `path`.
pub(crate) fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    // It may grow while it is read.
    open(path)?.take(MAX_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

fn refused(kind: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("it is {kind}, and only regular files are read"),
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    use rustix::fs::{CWD, inotify, mkfifoat};
    use rustix::io::{Errno, read};

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder =
                std::env::temp_dir().join(format!("sparring-{name}-{}", std::process::id()));
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
        let (file, link, fifo, socket) = (
            folder.0.join("file"),
            folder.0.join("link"),
            folder.0.join("fifo"),
            folder.0.join("socket"),
        );
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
        assert_eq!(
            text(&folder.0.join("none")).expect_err("missing").kind(),
            io::ErrorKind::NotFound
        );
    }

    #[test]
    fn opens_nothing_but_regular_files() {
        let folder = Folder::new("opened");
        let (fifo, file) = (folder.0.join("fifo"), folder.0.join("file"));
        mkfifoat(CWD, &fifo, Mode::RUSR | Mode::WUSR).expect("made");
        fs::write(&file, "text").expect("written");
        let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
        let watch = inotify::init(flags).expect("an inotify instance");
        let opens = |path: &Path| {
            inotify::add_watch(&watch, path, inotify::WatchFlags::OPEN).expect("watched");
            let _ = text(path);
            read(&watch, &mut [0; 256])
        };
        assert_eq!(opens(&fifo), Err(Errno::AGAIN));
        assert!(opens(&file).is_ok_and(|bytes| bytes > 0));
    }

    #[test]
    fn refuses_a_file_that_is_too_large() {
        let folder = Folder::new("large");
        let path = folder.0.join("sparse");
        let set_len =
            |len| File::create(&path).and_then(|file| file.set_len(len)).expect("a sparse file");
        set_len(MAX_BYTES);
        assert!(open(&path).is_ok());
        set_len(MAX_BYTES + 1);
        let error = text(&path).expect_err("too large").to_string();
        assert!(error.contains("it has 1024 MiB, and at most 1024 are read"), "{error}");
    }
}
