//! What puts two servers under fire: a wire between them that is slow and can be cut, and chance.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Enough like random.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % n
    }
}

/// A wire to a port that can be cut: it lets so many bytes through, and then nothing until it is mended.
pub struct Wire {
    pub port: u16,
    state: Arc<State>,
}

struct State {
    /// How long each piece is held back, in microseconds.
    pace_us: AtomicUsize,
    left: AtomicUsize,
    /// Bytes that came from who has dialled, also those that were lost in a cut.
    sent: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
}

impl Wire {
    /// Holds back each piece of 16 KiB for as long as `pace`.
    pub fn lay(to: u16, pace: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            pace_us: AtomicUsize::new(usize::try_from(pace.as_micros()).unwrap()),
            left: AtomicUsize::new(usize::MAX),
            sent: AtomicU64::new(0),
            open: Mutex::default(),
        });
        let shared = state.clone();
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                if shared.left.load(Ordering::SeqCst) == 0 {
                    continue;
                }
                let copies = || (near.try_clone().unwrap(), far.try_clone().unwrap());
                shared.open.lock().unwrap().extend([copies().0, copies().1]);
                for (from, to, is_sent) in [(copies().0, copies().1, true), (copies().1, copies().0, false)] {
                    let state = shared.clone();
                    std::thread::spawn(move || state.carry(from, to, is_sent));
                }
            }
        });
        Self { port, state }
    }

    pub fn cut_after(&self, bytes: usize) {
        self.state.left.store(bytes, Ordering::SeqCst);
    }

    pub fn hurry(&self) {
        self.pace(Duration::ZERO);
    }

    pub fn pace(&self, pace: Duration) {
        self.state.pace_us.store(usize::try_from(pace.as_micros()).unwrap(), Ordering::SeqCst);
    }

    pub fn is_cut(&self) -> bool {
        self.state.left.load(Ordering::SeqCst) == 0
    }

    pub fn mend(&self) {
        self.state.open.lock().unwrap().clear();
        self.state.left.store(usize::MAX, Ordering::SeqCst);
    }

    /// Bytes that were sent towards the port, whether they arrived or not.
    pub fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::SeqCst)
    }
}

impl State {
    fn carry(&self, mut from: TcpStream, mut to: TcpStream, is_sent: bool) {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            if is_sent {
                self.sent.fetch_add(n as u64, Ordering::SeqCst);
            }
            let take = |left: usize| if left == usize::MAX { Some(left) } else { Some(left.saturating_sub(n)) };
            let before = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).unwrap();
            if before != usize::MAX && before <= n {
                // All connections go at once.
                for stream in self.open.lock().unwrap().drain(..) {
                    let _ = stream.shutdown(Shutdown::Both);
                }
                return;
            }
            std::thread::sleep(Duration::from_micros(self.pace_us.load(Ordering::SeqCst) as u64));
            if to.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    }
}
