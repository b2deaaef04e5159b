//! As much of Redis' protocol as it takes to bend a server from outside.

use super::ServerError;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A blocking connection of its own.
pub struct Connection {
    reader: BufReader<Box<dyn Read + Send>>,
    writer: Box<dyn Write + Send>,
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing.
    Nil,
    /// A number.
    Int(i64),
    /// A simple or a bulk string.
    Bytes(Vec<u8>),
    /// An error inside an array.
    Error(String),
    /// Several values.
    Array(Vec<Value>),
}

impl Value {
    /// The string, if it is one of UTF-8.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The number, also where it came as a string.
    #[must_use]
    pub fn int(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            other => other.text()?.parse().ok(),
        }
    }

    /// The values of an array; none where it is none.
    #[must_use]
    pub fn items(&self) -> &[Self] {
        match self {
            Self::Array(items) => items,
            _ => &[],
        }
    }

    /// Whether it is nothing.
    #[must_use]
    pub fn is_nil(&self) -> bool {
        *self == Self::Nil
    }

    /// In an array of names and values in turn, the value of that name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Self> {
        self.items().chunks_exact(2).find(|pair| pair[0].text() == Some(name)).map(|pair| &pair[1])
    }
}

impl Connection {
    /// Over TCP. An answer that takes longer than `timeout` is an error.
    ///
    /// # Errors
    /// What connecting meets.
    pub fn tcp(addr: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        Ok(Self::new(Box::new(stream.try_clone()?), Box::new(stream)))
    }

    /// Over a Unix socket. An answer that takes longer than `timeout` is an error.
    ///
    /// # Errors
    /// What connecting meets.
    pub fn unix(path: &Path, timeout: Duration) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(timeout))?;
        Ok(Self::new(Box::new(stream.try_clone()?), Box::new(stream)))
    }

    fn new(reader: Box<dyn Read + Send>, writer: Box<dyn Write + Send>) -> Self {
        Self { reader: BufReader::new(reader), writer }
    }

    /// Sends a command and waits for its answer.
    ///
    /// # Errors
    /// [`ServerError::Refused`] with an error that the server answers; else what the connection meets.
    pub fn command<A: AsRef<[u8]>>(&mut self, words: &[A]) -> Result<Value, ServerError> {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words.iter().map(AsRef::as_ref) {
            bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            bytes.extend_from_slice(word);
            bytes.extend_from_slice(b"\r\n");
        }
        let name = || {
            let first = words.first().map_or(&[][..], AsRef::as_ref);
            String::from_utf8_lossy(first).into_owned()
        };
        let answer = self.writer.write_all(&bytes).and_then(|()| self.value());
        match answer.map_err(ServerError::io(format!("the answer to {}", name())))? {
            Value::Error(answer) => Err(ServerError::Refused { command: name(), answer }),
            value => Ok(value),
        }
    }

    fn value(&mut self) -> io::Result<Value> {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line)?;
        let Some((kind, rest)) = line.strip_suffix(b"\r\n").and_then(|line| line.split_first()) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let text = String::from_utf8_lossy(rest);
        let number = || text.parse::<i64>().map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
        match kind {
            b'+' => Ok(Value::Bytes(rest.to_vec())),
            b'-' => Ok(Value::Error(text.into_owned())),
            b':' => number().map(Value::Int),
            b'$' | b'*' => match (kind, usize::try_from(number()?)) {
                (_, Err(_)) => Ok(Value::Nil),
                (b'*', Ok(items)) => {
                    (0..items).map(|_| self.value()).collect::<io::Result<_>>().map(Value::Array)
                }
                (_, Ok(length)) => {
                    let mut bytes = vec![0; length + 2];
                    self.reader.read_exact(&mut bytes)?;
                    bytes.truncate(length);
                    Ok(Value::Bytes(bytes))
                }
            },
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}
