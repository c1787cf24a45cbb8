//! The user's own messages, in place of generated ones: files, and a first message.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::str::FromStr;

use bytes::Bytes;
use clap::ValueEnum;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// Longest message, bytes: a turn's output must fit in memory several times over.
pub(crate) const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// Longest file of lines, bytes.
const MAX_LINES_BYTES: usize = 256 << 20;
/// Most lines of such a file.
const MAX_LINES: usize = 1_000_000;

/// A file with messages. A document stores its length and its SHA-256, never its path or content.
#[derive(Clone)]
pub struct PayloadFile {
    /// Path as the user gave it; `None` where a document named the file.
    path: Option<PathBuf>,
    /// The file's content; `None` where it was not read.
    content: Option<Bytes>,
    bytes: u64,
    sha256: String,
}

/// Form of a file in a document.
#[derive(Serialize, Deserialize)]
struct Stored {
    bytes: u64,
    sha256: String,
}

impl PayloadFile {
    /// Reads a file that is one message.
    pub(crate) fn one(path: &str) -> Result<Self, String> {
        Self::unread(path.into()).read(MAX_MESSAGE_BYTES)
    }

    /// Reads a file with a message in each line.
    pub(crate) fn lines(path: &str) -> Result<Self, String> {
        let file = Self::unread(path.into()).read(MAX_LINES_BYTES)?;
        let count = file.each_line().count();
        if count > MAX_LINES {
            return Err(format!("it has {count} lines: expected at most {MAX_LINES}"));
        }
        let longest = file.each_line().map(|line| line.len()).max().unwrap_or_default();
        if longest > MAX_MESSAGE_BYTES {
            let most = MAX_MESSAGE_BYTES >> 20;
            return Err(format!("a line has {longest} bytes: expected at most {most} MiB"));
        }
        Ok(file)
    }

    /// Returns a file that is not read, for a load with every key.
    pub(crate) fn named() -> Option<Self> {
        Some(Self::unread(PathBuf::new()))
    }

    fn unread(path: PathBuf) -> Self {
        Self { path: Some(path), content: None, bytes: 0, sha256: String::new() }
    }

    /// Returns the file with its content, if it was named by a path and is not read yet.
    pub(crate) fn again(&self, read: fn(&str) -> Result<Self, String>) -> Result<Self, String> {
        match (&self.path, &self.content) {
            (Some(path), None) => {
                let path = path.to_string_lossy();
                read(&path).map_err(|error| format!("`{path}`: {error}"))
            }
            _ => Ok(self.clone()),
        }
    }

    fn read(self, most: usize) -> Result<Self, String> {
        let path = self.path.as_deref().unwrap_or_else(|| "".as_ref());
        let mut content = Vec::new();
        let file = File::open(path).map_err(|error| format!("cannot open it: {error}"))?;
        let read = file.take(most as u64 + 1).read_to_end(&mut content);
        read.map_err(|error| format!("cannot read it: {error}"))?;
        if content.is_empty() {
            return Err("it is empty: expected a file with a message, as in orders.json".to_owned());
        }
        if content.len() > most {
            return Err(format!("it has more than {} MiB, which is the most", most >> 20));
        }
        let digest = Sha256::digest(&content);
        let sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let bytes = content.len() as u64;
        Ok(Self { path: self.path, content: Some(content.into()), bytes, sha256 })
    }

    /// Returns the content; `None` where it is not known.
    pub(crate) fn content(&self) -> Option<&Bytes> {
        self.content.as_ref()
    }

    /// Returns the length of the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns each line, without its line feed or carriage return and line feed.
    pub(crate) fn each_line(&self) -> impl Iterator<Item = Bytes> {
        let mut rest = self.content.clone().unwrap_or_default();
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let end = rest.iter().position(|&byte| byte == b'\n');
            let mut line = rest.split_to(end.map_or(rest.len(), |end| end + 1));
            if line.ends_with(b"\n") {
                line.truncate(line.len() - 1);
                if line.ends_with(b"\r") {
                    line.truncate(line.len() - 1);
                }
            }
            Some(line)
        })
    }
}

impl fmt::Debug for PayloadFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PayloadFile({} bytes, {})", self.bytes, self.sha256)
    }
}

impl PartialEq for PayloadFile {
    fn eq(&self, other: &Self) -> bool {
        (self.bytes, &self.sha256) == (other.bytes, &other.sha256)
    }
}

impl Serialize for PayloadFile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Stored { bytes: self.bytes, sha256: self.sha256.clone() }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PayloadFile {
    /// Reads a path, as a catalogue has it, or the form of a document. The file is not read here.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected the path of a file")]
        enum Written {
            Path(PathBuf),
            Stored(Stored),
        }
        Ok(match Written::deserialize(deserializer)? {
            Written::Path(path) => Self::unread(path),
            Written::Stored(Stored { bytes, sha256 }) => {
                Self { path: None, content: None, bytes, sha256 }
            }
        })
    }
}

/// A text that may hold a password or a name. A document stores its length alone: a hash would
/// allow to guess it.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateText {
    text: Option<String>,
    bytes: usize,
}

impl PrivateText {
    /// Returns the text; `None` where a document named it.
    pub(crate) fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }
}

impl From<&str> for PrivateText {
    fn from(text: &str) -> Self {
        Self { text: Some(text.to_owned()), bytes: text.len() }
    }
}

impl FromStr for PrivateText {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.into())
    }
}

impl fmt::Debug for PrivateText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateText({} bytes)", self.bytes)
    }
}

/// Form of a private text in a document.
#[derive(Serialize, Deserialize)]
struct Length {
    bytes: usize,
}

impl Serialize for PrivateText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Length { bytes: self.bytes }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PrivateText {
    /// Reads a text, as a catalogue has it, or the form of a document.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a text")]
        enum Written {
            Text(String),
            Stored(Length),
        }
        Ok(match Written::deserialize(deserializer)? {
            Written::Text(text) => text.as_str().into(),
            Written::Stored(Length { bytes }) => Self { text: None, bytes },
        })
    }
}

/// Order in which the lines of a file are sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PayloadOrder {
    /// From the first to the last on each connection, and again.
    #[default]
    InTurn,
    /// At random, from the seed.
    Random,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &str) -> PayloadFile {
        let file = PayloadFile::unread(PathBuf::new());
        PayloadFile { content: Some(content.to_owned().into()), ..file }
    }

    #[test]
    fn lines_end_with_line_feeds() {
        let lines = |content| file(content).each_line().collect::<Vec<_>>();
        assert_eq!(lines("a\nbc"), ["a", "bc"]);
        assert_eq!(lines("a\r\n\nb\r\n"), ["a", "", "b"]);
        assert_eq!(lines("\n"), [""]);
        assert_eq!(lines("a\r"), ["a\r"]);
    }

    #[test]
    fn stored_forms_name_neither_path_nor_text() {
        let path = std::env::temp_dir().join(format!("sparring-payload-{}", std::process::id()));
        std::fs::write(&path, "abc").expect("a temporary file");
        let read = PayloadFile::one(path.to_str().expect("UTF-8")).expect("a message");
        let json = serde_json::to_string(&read).expect("JSON");
        // FIPS 180-2, appendix B.1.
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(json, format!("{{\"bytes\":3,\"sha256\":\"{hash}\"}}"));
        let stored: PayloadFile = serde_json::from_str(&json).expect("the form of a document");
        assert_eq!((&stored, stored.content()), (&read, None));
        let named = serde_json::json!(path);
        let named: PayloadFile = serde_json::from_value(named).expect("a path");
        assert!(named.content().is_none(), "documents are read without touching files");
        assert_eq!(named.again(PayloadFile::one), Ok(read));
        std::fs::remove_file(&path).expect("own file");
        assert!(named.again(PayloadFile::one).is_err_and(|error| error.contains("cannot open")));

        let secret = PrivateText::from("token");
        let json = serde_json::to_string(&secret).expect("JSON");
        assert_eq!(
            (json.as_str(), format!("{secret:?}").contains("token")),
            ("{\"bytes\":5}", false)
        );
        let stored: PrivateText = serde_json::from_str(&json).expect("the form of a document");
        assert_eq!(stored.text(), None);
    }

    #[test]
    fn empty_files_and_long_ones_are_refused() {
        let empty = PayloadFile::one("/dev/null").expect_err("nothing to send");
        assert!(empty.contains("it is empty"), "{empty}");
        let endless = PayloadFile::one("/dev/zero").expect_err("too much");
        assert_eq!(endless, "it has more than 64 MiB, which is the most");
    }
}
