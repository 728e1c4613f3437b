//! The bare epoll loop: a process of its own that writes given bytes to as many sockets as there are readers.
//!
//! The parent speaks to it over the first connection it accepts: `R` asks how many bytes of requests have come in, answered by eight
//! bytes, little endian; `W`, four bytes of length and as many bytes ask to write these to every other socket, acknowledged by one
//! byte before the first write, as a commit is acknowledged when it is durable and not when it is delivered. The child ends when the
//! connection does.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;

use super::readers::{Readers, allow_sockets};

const LISTENER: u64 = u64::MAX;
const CONTROL: u64 = u64::MAX - 1;
const SETTLE_TIME_MAX: Duration = Duration::from_secs(30);

/// The hidden subcommand.
#[derive(clap::Args)]
pub struct BaselineArgs {
    #[arg(long)]
    readers: usize,
}

/// A running baseline process, and its readers.
pub struct Baseline {
    child: Child,
    control: TcpStream,
    pub readers: Readers,
}

/// A write to all sockets.
pub struct Written {
    pub sent: Instant,
    pub acked: Instant,
}

impl Baseline {
    /// Starts this program anew as the baseline, and connects `count` readers to it.
    pub fn start(count: usize) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["baseline", "--readers", &count.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the baseline process")?;
        let stdout = child.stdout.take().context("the baseline's output")?;
        let mut address = String::new();
        BufReader::new(stdout).read_line(&mut address)?;
        let address = address.trim();
        let control = TcpStream::connect(address).with_context(|| format!("connect to the baseline at {address}"))?;
        control.set_nodelay(true)?;
        Ok(Baseline { child, control, readers: Readers::connect(address, count)? })
    }

    /// Sends `request` on every reader's socket, and waits until the baseline has read them all.
    pub fn park(&mut self, request: &[u8]) -> anyhow::Result<()> {
        let before = self.bytes_read()?;
        for reader in 0..self.readers.len() {
            self.readers.send(reader, request)?;
        }
        let expected = before + (self.readers.len() * request.len()) as u64;
        let begin = Instant::now();
        while self.bytes_read()? < expected {
            ensure!(begin.elapsed() < SETTLE_TIME_MAX, "the baseline did not read its requests");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// A handle that asks for writes, to be used on another thread while this one reads.
    pub fn writer(&self) -> anyhow::Result<Writer> {
        Ok(Writer { control: self.control.try_clone()? })
    }

    fn bytes_read(&mut self) -> anyhow::Result<u64> {
        let mut answer = [0; 8];
        self.control.write_all(b"R")?;
        self.control.read_exact(&mut answer)?;
        Ok(u64::from_le_bytes(answer))
    }
}

impl Drop for Baseline {
    fn drop(&mut self) {
        // The end of the control connection ends the child, but not while it is stuck: it has no state worth a grace.
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("end the baseline process: {error}");
        }
    }
}

/// Asks the baseline to write.
pub struct Writer {
    control: TcpStream,
}

impl Writer {
    pub fn write(&mut self, bytes: &[u8]) -> anyhow::Result<Written> {
        let mut order = vec![b'W'];
        order.extend_from_slice(&u32::try_from(bytes.len())?.to_le_bytes());
        order.extend_from_slice(bytes);
        let sent = Instant::now();
        self.control.write_all(&order)?;
        self.control.read_exact(&mut [0])?;
        Ok(Written { sent, acked: Instant::now() })
    }
}

/// Runs the child.
pub fn run(args: &BaselineArgs) -> anyhow::Result<()> {
    allow_sockets(args.readers)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    let (mut control, _) = listener.accept()?;
    control.set_nodelay(true)?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
    epoll::add(&epoll, &control, epoll::EventData::new_u64(CONTROL), epoll::EventFlags::IN)?;
    let mut sockets: Vec<TcpStream> = Vec::with_capacity(args.readers);
    let mut events = Vec::with_capacity(1024);
    let mut block = vec![0; 64 << 10];
    let mut bytes_read = 0u64;
    loop {
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            match event.data.u64() {
                LISTENER => accept_all(&listener, &epoll, &mut sockets)?,
                CONTROL => {
                    if !obey(&mut control, &mut sockets, bytes_read)? {
                        return Ok(());
                    }
                }
                number => match sockets[number as usize].read(&mut block) {
                    Ok(0) => return Ok(()),
                    Ok(n) => bytes_read += n as u64,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                },
            }
        }
    }
}

fn accept_all(
    listener: &TcpListener,
    epoll: impl std::os::fd::AsFd,
    sockets: &mut Vec<TcpStream>,
) -> anyhow::Result<()> {
    loop {
        match listener.accept() {
            Ok((socket, _)) => {
                socket.set_nodelay(true)?;
                socket.set_nonblocking(true)?;
                let data = epoll::EventData::new_u64(sockets.len() as u64);
                epoll::add(epoll.as_fd(), &socket, data, epoll::EventFlags::IN)?;
                sockets.push(socket);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Follows one order; false when the parent is gone.
fn obey(control: &mut TcpStream, sockets: &mut [TcpStream], bytes_read: u64) -> anyhow::Result<bool> {
    let mut order = [0];
    match control.read_exact(&mut order) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(false),
        other => other?,
    }
    if order == *b"R" {
        control.write_all(&bytes_read.to_le_bytes())?;
        return Ok(true);
    }
    ensure!(order == *b"W", "the order {order:?} is not known");
    let mut length = [0; 4];
    control.read_exact(&mut length)?;
    let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
    control.read_exact(&mut bytes)?;
    control.write_all(b".")?;
    for socket in sockets {
        socket.write_all(&bytes)?;
    }
    Ok(true)
}
