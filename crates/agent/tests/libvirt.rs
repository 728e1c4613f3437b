//! The collector and a real libvirtd with its test driver: domains appear, change and go by its events.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use libvirtd::{Libvirtd, PATIENCE};
use lockstep_agent::{HostReader, Observed, SwitchAction, SwitchError};

#[path = "support/libvirtd.rs"]
mod libvirtd;

/// A reader, and what it says of news.
struct Followed {
    reader: HostReader,
    news: Receiver<()>,
}

impl Followed {
    fn new(daemon: &Libvirtd) -> Self {
        let (send, news) = channel();
        let address = daemon.uri("libvirt-sock-ro").parse().unwrap();
        let reader = HostReader::new().with_libvirt(Some(address), move || {
            let _ = send.send(());
        });
        Self { reader, news }
    }

    fn machine(&self, name: &str) -> Option<Observed> {
        let of_libvirt =
            |one: &Observed| one.resource_type == "VirtualMachine" && one.properties.contains_key("libvirt");
        self.reader.read().unwrap().into_iter().find(|one| of_libvirt(one) && one.properties["name"] == name)
    }

    /// Waits, from one piece of news to the next, until the machine is as expected.
    fn wait(&self, name: &str, is_expected: impl Fn(Option<&Observed>) -> bool) -> Option<Observed> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let machine = self.machine(name);
            if is_expected(machine.as_ref()) {
                return machine;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            self.news.recv_timeout(left).unwrap_or_else(|_| panic!("no news; {name} is {machine:?}"));
        }
    }

    fn wait_for_state(&self, name: &str, state: &str) {
        self.wait(name, |machine| machine.is_some_and(|machine| machine.properties["power_state"] == state));
    }
}

#[test]
fn domains_are_followed_by_events() {
    let Some(daemon) = Libvirtd::start() else { return };
    let followed = Followed::new(&daemon);
    let machine = followed.wait("test", |machine| machine.is_some()).unwrap();
    assert_eq!(machine.id, "vm-6695eb01-f6a4-8304-79aa-97f2502e193f");
    assert_eq!(machine.properties["power_state"], "POWERED_ON");
    assert_eq!((&machine.properties["cpu_count"], &machine.properties["memory_size_MiB"]), (&2.into(), &8192.into()));
    assert_eq!(machine.properties["disks"][0]["path"], "/guest/diskimage1");
    assert_eq!(machine.properties["nics"][0]["mac_address"], "aa:bb:cc:dd:ee:ff");

    daemon.tell(&["suspend", "test"]);
    followed.wait_for_state("test", "SUSPENDED");
    daemon.tell(&["resume", "test"]);
    followed.wait_for_state("test", "POWERED_ON");
    daemon.tell(&["destroy", "test"]);
    followed.wait_for_state("test", "POWERED_OFF");

    let definition = daemon.path().join("other.xml");
    let xml = "<domain type='test'><name>other</name><memory unit='GiB'>1</memory><os><type>hvm</type></os></domain>";
    std::fs::write(&definition, xml).unwrap();
    daemon.tell(&["define", definition.to_str().unwrap()]);
    followed.wait_for_state("other", "POWERED_OFF");
    daemon.tell(&["start", "other"]);
    followed.wait_for_state("other", "POWERED_ON");
    daemon.tell(&["destroy", "other"]);
    daemon.tell(&["undefine", "other"]);
    followed.wait("other", |machine| machine.is_none());
}

#[test]
fn domains_are_switched_by_the_daemon_that_manages_them() {
    let Some(daemon) = Libvirtd::start() else { return };
    let followed = Followed::new(&daemon);
    let id = followed.wait("test", |machine| machine.is_some()).unwrap().id;
    let switch = |action| followed.reader.switch(&id, action);
    assert_eq!(switch(SwitchAction::Start), Err(SwitchError::Already));
    for (action, state) in [
        (SwitchAction::Suspend, "SUSPENDED"),
        (SwitchAction::Start, "POWERED_ON"),
        (SwitchAction::Stop, "POWERED_OFF"),
        (SwitchAction::Start, "POWERED_ON"),
        (SwitchAction::Shutdown, "POWERED_OFF"),
    ] {
        assert_eq!(switch(action), Ok(()), "{action:?}");
        followed.wait_for_state("test", state);
    }
    assert_eq!(switch(SwitchAction::Stop), Err(SwitchError::Already));
    assert_eq!(switch(SwitchAction::Reset), Err(SwitchError::NotNow { status: "SHUTOFF".to_owned() }));
    // Libvirt's test driver resets nothing: what it says is told.
    assert_eq!(switch(SwitchAction::Start), Ok(()));
    followed.wait_for_state("test", "POWERED_ON");
    let reset = switch(SwitchAction::Reset);
    assert!(matches!(&reset, Ok(()) | Err(SwitchError::Libvirt { .. })), "{reset:?}");
    let other = followed.reader.switch("vm-00000000-0000-4000-8000-000000000000", SwitchAction::Stop);
    assert_eq!(other, Err(SwitchError::NotHere));
}

#[test]
fn an_absent_daemon_is_told_and_followed_again() {
    let Some(mut daemon) = Libvirtd::start() else { return };
    let followed = Followed::new(&daemon);
    followed.wait("test", |machine| machine.is_some());
    let is_connected = || followed.reader.read().unwrap()[0].properties["libvirt"]["connected"].clone();
    assert_eq!(is_connected(), true);
    daemon.kill();
    let started = Instant::now();
    while is_connected() != false {
        assert!(started.elapsed() < PATIENCE, "its end was not seen");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(followed.machine("test").is_some(), "what was known last is told on");
    daemon.restart();
    while is_connected() != true {
        assert!(started.elapsed() < PATIENCE, "it is not followed again");
        std::thread::sleep(Duration::from_millis(20));
    }
}
