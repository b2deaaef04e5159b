use super::{Direction, Faults, RandomFaults, Shared};
use fastrand::Rng;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// What ends a connection, other than both sides being done.
enum End {
    /// It is closed.
    Cut,
    /// It is reset: by the test, or since one side was.
    Reset,
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Reset
    }
}

/// Pieces that wait for their time; what does not fit waits in the sockets.
const QUEUE: usize = 64;
const PIECE: usize = 16 * 1_024;

/// Carries one connection to its end.
pub(super) async fn carry(mut client: TcpStream, number: u64, shared: Arc<Shared>) {
    let mut faults = shared.faults.subscribe();
    let Faults { upstream, resets, .. } = *faults.borrow_and_update();
    shared.open.fetch_add(1, Ordering::SeqCst);
    match TcpStream::connect(upstream).await {
        Err(_) => abort(&client),
        Ok(mut server) => {
            let _best_effort = (client.set_nodelay(true), server.set_nodelay(true));
            let end = {
                let (from_client, to_client) = client.split();
                let (from_server, to_server) = server.split();
                let way = |way| Pump {
                    way,
                    number,
                    shared: &shared,
                    faults: faults.clone(),
                    luck: Luck { number: 2 * number + way as u64, drawn: None },
                };
                let both = async {
                    tokio::try_join!(way(0).run(from_client, to_server), way(1).run(from_server, to_client),)
                };
                let mut reset = faults.clone();
                tokio::select! {
                    end = both => end.err(),
                    _ = reset.wait_for(|faults| faults.resets != resets) => Some(End::Reset),
                }
            };
            if matches!(end, Some(End::Reset)) {
                abort(&client);
                abort(&server);
            }
        }
    }
    shared.open.fetch_sub(1, Ordering::SeqCst);
}

/// Makes the coming close a reset.
#[allow(deprecated, reason = "only zero does not block, and set_zero_linger is too new for our oldest tokio")]
fn abort(stream: &TcpStream) {
    let _best_effort = stream.set_linger(Some(Duration::ZERO));
}

/// One direction of one connection.
struct Pump<'a> {
    way: usize,
    /// The connection's number.
    number: u64,
    shared: &'a Shared,
    faults: watch::Receiver<Faults>,
    luck: Luck,
}

impl Pump<'_> {
    async fn run(mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> Result<(), End> {
        let (queue, mut pieces) = mpsc::channel(QUEUE);
        let reading = async move {
            loop {
                let mut bytes = vec![0; PIECE];
                let length = from.read(&mut bytes).await?;
                bytes.truncate(length);
                // An empty piece is the end, which takes its time too.
                if queue.send((Instant::now(), bytes)).await.is_err() || length == 0 {
                    return Ok::<(), End>(());
                }
            }
        };
        let writing = async move {
            while let Some((came, bytes)) = pieces.recv().await {
                self.write(came, &bytes, &mut to).await?;
            }
            Ok(())
        };
        tokio::try_join!(reading, writing).map(|_| ())
    }

    async fn write(&mut self, came: Instant, bytes: &[u8], to: &mut WriteHalf<'_>) -> Result<(), End> {
        let random = self.faults.borrow().random;
        let (late, mut luck) = random.map_or((Duration::ZERO, None), |random| self.luck.draw(&random));
        if bytes.is_empty() {
            self.pass(came + late).await?;
            return Ok(to.shutdown().await?);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            self.pass(came + late).await?;
            let drip = self.faults.borrow().ways[self.way].drip;
            let piece = drip.map_or(rest.len(), |(bytes, _)| bytes.min(rest.len()));
            let (mut allowed, mut end) = self.cut(piece);
            if let Some(end_of_luck) = luck.take() {
                (allowed, end) = (allowed.min(piece / 2), Some(end_of_luck));
            }
            to.write_all(&rest[..allowed]).await?;
            self.shared.bytes[self.way].fetch_add(allowed as u64, Ordering::SeqCst);
            if let Some(end) = end {
                if matches!(end, End::Cut) {
                    to.shutdown().await?;
                }
                return Err(end);
            }
            rest = &rest[piece..];
            if let Some((_, pause)) = drip {
                tokio::select! { () = sleep(pause) => {} _ = self.faults.changed() => {} }
            }
        }
        Ok(())
    }

    /// Waits until what came at `came` may pass.
    async fn pass(&mut self, came: Instant) -> Result<(), End> {
        loop {
            let way = self.faults.borrow_and_update().ways[self.way];
            let due = came + way.delay;
            if self.number < way.blackhole_below {
                self.faults.changed().await.map_err(|_| End::Cut)?;
            } else if Instant::now() < due {
                tokio::select! { () = sleep_until(due) => {} _ = self.faults.changed() => {} }
            } else {
                return Ok(());
            }
        }
    }

    /// How many of so many bytes may still pass, and whether that is the end.
    fn cut(&self, bytes: usize) -> (usize, Option<End>) {
        if !Direction::ToClient.ways().contains(&self.way) {
            return (bytes, None);
        }
        let mut cut = self.shared.cut();
        match *cut {
            Some(left) if left <= bytes => {
                *cut = None;
                (left, Some(End::Cut))
            }
            Some(left) => {
                *cut = Some(left - bytes);
                (bytes, None)
            }
            None => (bytes, None),
        }
    }
}

/// What a connection's random faults are drawn from.
struct Luck {
    number: u64,
    drawn: Option<(RandomFaults, Rng)>,
}

impl Luck {
    /// For one piece: how late it is, and how its connection ends in it.
    fn draw(&mut self, random: &RandomFaults) -> (Duration, Option<End>) {
        let rng = match &mut self.drawn {
            Some((drawn, rng)) if drawn == random => rng,
            drawn => {
                // Neighbouring seeds and numbers make unlike generators.
                let seed = Rng::with_seed(random.seed).u64(..) ^ Rng::with_seed(self.number).u64(..);
                &mut drawn.insert((*random, Rng::with_seed(seed))).1
            }
        };
        let micros = u64::try_from(random.delay.as_micros()).unwrap_or(u64::MAX);
        let late = Duration::from_micros(rng.u64(..=micros));
        let end = match rng.u32(..1_000) {
            draw if draw < random.cuts => Some(End::Cut),
            draw if draw - random.cuts < random.resets => Some(End::Reset),
            _ => None,
        };
        (late, end)
    }
}
