use super::ServerError;
use std::io;
use std::net::{Ipv4Addr, TcpListener};

/// A port on which nothing listens now.
pub(super) fn free() -> Result<u16, ServerError> {
    let port = listener().and_then(|listener| listener.local_addr()).map(|addr| addr.port());
    port.map_err(ServerError::io("finding a free port"))
}

/// Listens on a free port of 127.0.0.1.
///
/// It lies below those that systems give to outgoing connections (from 32,768 on Linux), so that none of these takes
/// the port of a server that is down for a moment, and none connects to itself.
pub(crate) fn listener() -> io::Result<TcpListener> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..100 {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, fastrand::u16(15_000..32_000))) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}
