//! Rules by which messages of the server count as answers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Rule by which a message of the server is the answer to one that was sent. Written `echo`,
/// `prefix`, `contains`, `any`, `id:FIELD` or `id:FIELD=SENT`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Match {
    /// The answer is the message.
    #[default]
    Echo,
    /// The answer begins with the message.
    Prefix,
    /// The answer contains the message.
    Contains,
    /// A field of the answer, which is JSON, has the value of a field of the message. Answers may
    /// come in any order.
    Id {
        /// The field of the answer.
        answer: Field,
        /// The field of the message.
        sent: Field,
    },
    /// Every message of the server answers the oldest message.
    Any,
}

/// Path of a field in JSON: names of members and positions in lists, from the outermost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field(Vec<String>);

impl Field {
    /// Returns the names and positions of the path.
    pub(crate) fn steps(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Echo => f.write_str("echo"),
            Self::Prefix => f.write_str("prefix"),
            Self::Contains => f.write_str("contains"),
            Self::Any => f.write_str("any"),
            Self::Id { answer, sent } if answer == sent => write!(f, "id:{answer}"),
            Self::Id { answer, sent } => write!(f, "id:{answer}={sent}"),
        }
    }
}

impl FromStr for Match {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let field = |path: &str| {
            let steps: Vec<String> = path.split('.').map(str::to_owned).collect();
            (!steps.iter().any(String::is_empty)).then_some(Field(steps))
        };
        let id = |fields: &str| {
            let (answer, sent) = fields.split_once('=').unwrap_or((fields, fields));
            Some(Self::Id { answer: field(answer)?, sent: field(sent)? })
        };
        let found = match text {
            "echo" => Some(Self::Echo),
            "prefix" => Some(Self::Prefix),
            "contains" => Some(Self::Contains),
            "any" => Some(Self::Any),
            _ => text.strip_prefix("id:").and_then(id),
        };
        found.ok_or_else(|| {
            format!(
                "`{text}` is not a valid match: expected echo, prefix, contains, any or id:FIELD, \
                 for example id:request.id, or id:reply_to=id"
            )
        })
    }
}

impl Serialize for Match {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Match {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_and_written() {
        for text in ["echo", "prefix", "contains", "any", "id:id", "id:a.1.b", "id:reply_to=id"] {
            assert_eq!(text.parse::<Match>().map(|rule| rule.to_string()).as_deref(), Ok(text));
        }
        assert_eq!(
            "id:id=id".parse::<Match>().map(|rule| rule.to_string()).as_deref(),
            Ok("id:id")
        );
        for text in ["", "id", "id:", "id:.", "id:a..b", "id:a=", "Echo", "ids"] {
            assert!(
                text.parse::<Match>().is_err_and(|error| error.contains("for example")),
                "{text}"
            );
        }
    }
}
