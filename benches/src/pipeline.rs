//! What a multiplexed client of Memcached reaches: one connection, and whatever is asked at the same time goes together.

use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;

/// Commands whose replies are one line each, in order.
#[derive(Clone, Debug)]
pub struct Pipeline {
    commands: mpsc::UnboundedSender<(Vec<u8>, oneshot::Sender<()>)>,
}

impl Pipeline {
    /// A connection to this server.
    ///
    /// # Errors
    /// What connecting meets.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let (commands, queue) = mpsc::unbounded_channel();
        let (waiting, replies) = mpsc::unbounded_channel();
        drop(tokio::spawn(write(writer, queue, waiting)));
        drop(tokio::spawn(read(reader, replies)));
        Ok(Self { commands })
    }

    /// Sends a command; whether its reply came.
    pub async fn ask(&self, command: Vec<u8>) -> bool {
        let (reply, replied) = oneshot::channel();
        self.commands.send((command, reply)).is_ok() && replied.await.is_ok()
    }
}

type Waiting = mpsc::UnboundedSender<oneshot::Sender<()>>;

async fn write(
    mut writer: OwnedWriteHalf,
    mut queue: mpsc::UnboundedReceiver<(Vec<u8>, oneshot::Sender<()>)>,
    waiting: Waiting,
) -> io::Result<()> {
    let (mut commands, mut bytes) = (Vec::new(), Vec::new());
    while let Some(first) = queue.recv().await {
        commands.push(first);
        // Whoever could ask now joins.
        yield_now().await;
        while let Ok(next) = queue.try_recv() {
            commands.push(next);
        }
        for (command, reply) in commands.drain(..) {
            bytes.extend_from_slice(&command);
            let _gone = waiting.send(reply);
        }
        writer.write_all(&bytes).await?;
        bytes.clear();
    }
    Ok(())
}

async fn read(
    mut reader: OwnedReadHalf,
    mut waiting: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
) -> io::Result<()> {
    let mut piece = vec![0; 1 << 16];
    loop {
        let length = reader.read(&mut piece).await?;
        let lines = piece.get(..length).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count();
        for _ in 0..lines {
            let Some(reply) = waiting.recv().await else { return Ok(()) };
            let _gone = reply.send(());
        }
        if length == 0 {
            return Ok(());
        }
    }
}
