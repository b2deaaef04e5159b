//! A server that answers as a test wants it to.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A server that does what none does on demand: it says what a test wants to every command but `stats`.
pub(crate) struct Script {
    pub(crate) address: SocketAddr,
    is_over: Arc<AtomicBool>,
}

pub(crate) enum Say {
    /// An absent key, or a write that was applied.
    Answer,
    /// It has no room.
    Refuse,
    /// Something else is the matter with it.
    Fail,
}

impl Script {
    /// `say` is asked of each command, and whether one was refused before on this connection.
    pub(crate) fn new(say: impl Fn(&[u8], bool) -> Say + Send + Sync + 'static) -> Self {
        Self::of("STAT item_size_max 1048576", say)
    }

    /// One that says these lines of itself.
    pub(crate) fn of(stats: &str, say: impl Fn(&[u8], bool) -> Say + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let (is_over, say, stats) =
            (Arc::new(AtomicBool::new(false)), Arc::new(say), Arc::<str>::from(stats));
        let over = Arc::clone(&is_over);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let (say, stats) = (Arc::clone(&say), Arc::clone(&stats));
                std::thread::spawn(move || serve(stream, &stats, &*say));
            }
        });
        Self { address, is_over }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _wake = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, stats: &str, say: &dyn Fn(&[u8], bool) -> Say) {
    let (mut bytes, mut refused) = (Vec::new(), false);
    let mut piece = [0; 4_096];
    while let Ok(length @ 1..) = stream.read(&mut piece) {
        bytes.extend_from_slice(&piece[..length]);
        let mut reply = Vec::new();
        while let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") {
            let line: Vec<u8> = bytes.drain(..end + 2).collect();
            let words: Vec<&[u8]> = line.trim_ascii().split(|byte| *byte == b' ').collect();
            let opaque = words.iter().find(|word| word.starts_with(b"O")).copied().unwrap_or_default();
            let answer: &[u8] = match words[0] {
                b"mg" => b"EN",
                b"ms" => {
                    // Its data is on the next line, and holds no line's end.
                    let data = words[2].iter().fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0')) + 2;
                    while bytes.len() < data {
                        let Ok(length @ 1..) = stream.read(&mut piece) else { return };
                        bytes.extend_from_slice(&piece[..length]);
                    }
                    bytes.drain(..data);
                    b"HD c7"
                }
                _ => b"HD",
            };
            if words[0] == b"stats" {
                reply.extend_from_slice(stats.as_bytes());
                reply.extend_from_slice(b"\r\nEND");
            } else {
                match say(&line, refused) {
                    Say::Answer => {
                        reply.extend_from_slice(answer);
                        reply.push(b' ');
                        reply.extend_from_slice(opaque);
                    }
                    Say::Refuse => {
                        refused = true;
                        reply.extend_from_slice(b"SERVER_ERROR out of memory storing object");
                    }
                    Say::Fail => reply.extend_from_slice(b"SERVER_ERROR as it was told"),
                }
            }
            reply.extend_from_slice(b"\r\n");
        }
        if stream.write_all(&reply).is_err() {
            return;
        }
    }
}
