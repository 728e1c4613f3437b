//! One connection to a libvirt daemon: calls, one at a time, and the events that come between.
//!
//! ```text
//! packet   length u32 (of all of it) │ program u32 │ version u32 │ procedure i32 │ type i32 │ serial u32 │ status i32 │ payload
//! type     0 call, 1 reply, 2 event
//! status   0 ok, 1 error (the payload says which)
//! ```
//!
//! Everything is big-endian. Source: libvirt's documentation, "RPC infrastructure", and the protocol's published definition.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::xdr::{Decoder, Encoder, Malformed};

/// How long a call of a reader may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// What a packet may hold: libvirt's own limit.
const PACKET_BYTES_MAX: usize = 32 << 20;

/// Length, program, version, procedure, type, serial, status.
const HEADER_BYTES: usize = 28;

/// The program of all drivers but those that stand for one hypervisor.
const PROGRAM: u32 = 0x2000_8086;
const VERSION: u32 = 1;

/// Packets that come between a call and its answer.
const BETWEEN_MAX: usize = 10_000;

/// The code of an error about a domain that is not there.
pub(super) const NO_DOMAIN: i32 = 42;

/// The event of domains that come, go, start and stop.
const LIFECYCLE: i32 = 0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
enum Procedure {
    ConnectOpen = 1,
    DomainCreate = 9,
    DomainDestroy = 12,
    DomainGetXmlDesc = 14,
    DomainResume = 28,
    DomainShutdown = 33,
    DomainSuspend = 34,
    AuthList = 66,
    DomainGetState = 212,
    DomainReset = 245,
    ConnectListAllDomains = 273,
    ConnectDomainEventCallbackRegisterAny = 316,
}

/// Why libvirt cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum LibvirtError {
    /// The connection failed, or an answer did not come in time.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// An answer cannot be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It wants a proof of who asks.
    #[error("the daemon asks for authentication on this socket")]
    Authentication,
    /// It said no.
    #[error("libvirt says {message:?}")]
    Refused {
        /// The error's number.
        code: i32,
        /// What it said.
        message: String,
    },
}

/// A domain, as calls name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    name: String,
    uuid: [u8; 16],
    id: i32,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Access {
    pub(super) is_read_only: bool,
    /// How long a call may take.
    pub(super) timeout: Duration,
}

impl Access {
    /// Looking.
    pub(super) const READ: Self = Self { is_read_only: true, timeout: CALL_TIMEOUT };
}

/// What can be done with a domain as a whole.
#[derive(Debug, Clone, Copy)]
pub(super) enum Control {
    Create,
    Destroy,
    Suspend,
    Resume,
    Reset,
    Shutdown,
}

/// A connection with a driver that is open.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    timeout: Duration,
    serial: u32,
    /// An event came while an answer was waited for.
    has_event: bool,
}

struct Packet {
    program: u32,
    kind: i32,
    serial: u32,
    status: i32,
    payload: Vec<u8>,
}

impl Connection {
    /// Connects to the daemon, and opens a driver, as `qemu:///system`.
    pub(super) fn open(socket: &Path, driver: &str, access: Access) -> Result<Self, LibvirtError> {
        let Access { is_read_only, timeout } = access;
        let stream = UnixStream::connect(socket)?;
        stream.set_write_timeout(Some(timeout))?;
        let mut connection = Self { stream, timeout, serial: 0, has_event: false };
        let ways = connection.call(Procedure::AuthList, Encoder::default())?;
        let mut ways = Decoder(&ways);
        // A list of ways; 0 is none at all.
        if ways.u32()? > 0 && ways.u32()? != 0 {
            return Err(LibvirtError::Authentication);
        }
        // 1: read-only.
        let flags = u32::from(is_read_only);
        connection.call(Procedure::ConnectOpen, Encoder::default().present().string(driver).u32(flags))?;
        Ok(connection)
    }

    /// All domains, those that do not run too.
    pub(super) fn domains(&mut self) -> Result<Vec<Reference>, LibvirtError> {
        const WITH_RESULTS: i32 = 1;
        let result = self.call(Procedure::ConnectListAllDomains, Encoder::default().i32(WITH_RESULTS).u32(0))?;
        let mut result = Decoder(&result);
        let count = result.u32()?;
        (0..count)
            .map(|_| Ok(Reference { name: result.string()?.to_owned(), uuid: result.opaque()?, id: result.i32()? }))
            .collect()
    }

    /// A domain's definition, as it runs if it runs.
    pub(super) fn definition(&mut self, domain: &Reference) -> Result<String, LibvirtError> {
        let result = self.call(Procedure::DomainGetXmlDesc, of(domain).u32(0))?;
        Ok(Decoder(&result).string()?.to_owned())
    }

    /// A domain's state: a number of `virDomainState`.
    pub(super) fn state(&mut self, domain: &Reference) -> Result<i32, LibvirtError> {
        let result = self.call(Procedure::DomainGetState, of(domain).u32(0))?;
        Ok(Decoder(&result).i32()?)
    }

    /// Does something with a domain; answers when it is done, a shutdown when it was asked for.
    pub(super) fn control(&mut self, control: Control, domain: &Reference) -> Result<(), LibvirtError> {
        let procedure = match control {
            Control::Create => Procedure::DomainCreate,
            Control::Destroy => Procedure::DomainDestroy,
            Control::Suspend => Procedure::DomainSuspend,
            Control::Resume => Procedure::DomainResume,
            Control::Reset => Procedure::DomainReset,
            Control::Shutdown => Procedure::DomainShutdown,
        };
        self.call(procedure, of(domain)).map(drop)
    }

    /// Asks for the lifecycle events of all domains.
    pub(super) fn watch(&mut self) -> Result<(), LibvirtError> {
        let every_domain = Encoder::default().i32(LIFECYCLE).absent();
        self.call(Procedure::ConnectDomainEventCallbackRegisterAny, every_domain)?;
        Ok(())
    }

    /// Waits for an event. Answers whether one came; all that have come by then are one.
    pub(super) fn wait_for_event(&mut self, timeout: Duration) -> Result<bool, LibvirtError> {
        if std::mem::take(&mut self.has_event) {
            return Ok(true);
        }
        self.stream.set_read_timeout(Some(timeout))?;
        let mut first = [0u8; 1];
        // Only the first byte may take its time.
        match self.stream.read(&mut first) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(_) => {}
            Err(error) if is_timeout(&error) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        Ok(self.packet(Some(first[0]))?.is_event())
    }

    fn call(&mut self, procedure: Procedure, arguments: Encoder) -> Result<Vec<u8>, LibvirtError> {
        self.serial = self.serial.wrapping_add(1);
        // Arguments of ours are short.
        let length = u32::try_from(HEADER_BYTES + arguments.0.len()).map_err(|_| Malformed)?;
        let header = Encoder::default().u32(length).u32(PROGRAM).u32(VERSION).i32(procedure as i32);
        const CALL: i32 = 0;
        let packet = header.i32(CALL).u32(self.serial).i32(0).opaque(&arguments.0);
        self.stream.write_all(&packet.0)?;
        for _ in 0..BETWEEN_MAX {
            let packet = self.packet(None)?;
            if packet.is_event() {
                self.has_event = true;
            } else if packet.is_reply_to(self.serial) {
                return packet.result();
            }
        }
        Err(Malformed.into())
    }

    /// Reads a packet, whose first byte may have been read.
    fn packet(&mut self, first: Option<u8>) -> Result<Packet, LibvirtError> {
        self.stream.set_read_timeout(Some(self.timeout))?;
        let mut header = [0u8; HEADER_BYTES];
        let read = usize::from(first.is_some());
        header[0] = first.unwrap_or_default();
        self.stream.read_exact(&mut header[read..])?;
        let mut fields = Decoder(&header);
        let length = usize::try_from(fields.u32()?).map_err(|_| Malformed)?;
        let (program, _version, _procedure) = (fields.u32()?, fields.u32()?, fields.i32()?);
        let (kind, serial, status) = (fields.i32()?, fields.u32()?, fields.i32()?);
        if !(HEADER_BYTES..=PACKET_BYTES_MAX).contains(&length) {
            return Err(Malformed.into());
        }
        let mut payload = Vec::new();
        let rest = (length - HEADER_BYTES) as u64;
        // Grows with what comes, not with what is promised.
        if (&self.stream).take(rest).read_to_end(&mut payload)? as u64 != rest {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(Packet { program, kind, serial, status, payload })
    }
}

impl Reference {
    /// Whether it has a UUID, in the usual notation.
    pub(super) fn has_uuid(&self, uuid: &str) -> bool {
        let digits: String = self.uuid.iter().map(|byte| format!("{byte:02x}")).collect();
        uuid.bytes().filter(|byte| *byte != b'-').map(|byte| byte.to_ascii_lowercase()).eq(digits.bytes())
    }
}

impl Packet {
    fn is_event(&self) -> bool {
        self.program == PROGRAM && self.kind == 2
    }

    fn is_reply_to(&self, serial: u32) -> bool {
        self.program == PROGRAM && self.kind == 1 && self.serial == serial
    }

    fn result(self) -> Result<Vec<u8>, LibvirtError> {
        if self.status == 0 {
            return Ok(self.payload);
        }
        let mut fields = Decoder(&self.payload);
        let (code, _domain) = (fields.i32()?, fields.i32()?);
        let message = fields.optional_string()?.unwrap_or("nothing of the reason").to_owned();
        Err(LibvirtError::Refused { code, message })
    }
}

fn of(domain: &Reference) -> Encoder {
    Encoder::default().string(&domain.name).opaque(&domain.uuid).i32(domain.id)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
