//! A destination that lies.

use std::sync::Arc;
use std::time::Duration;

use lockstep_client::{Client, Config, Trust};
use lockstep_contract::Binary;
use lockstep_contract::services::replication_receive::{
    Base, Commit, Disk, GetLeaf, Had, Have, Instance, Leaf, Leaves, Map, Open, Opened, Put, Taken,
};
use lockstep_replication::limit::{Line, Memory};
use lockstep_replication::ship::{self, ShipError, Way, ship};
use lockstep_site::table::Table;

use crate::pair::{BLOCK, Machine, Mode, Pair, progress};

/// What is answered where a lie is not told.
#[derive(Clone)]
struct Lies {
    life: fn(u64) -> String,
    base: Option<Base>,
    leaves: Vec<u8>,
    leaf: Vec<u8>,
    present: Option<Vec<u8>>,
    root: Option<String>,
}

impl Default for Lies {
    fn default() -> Self {
        Self { life: |_| "one".to_owned(), base: None, leaves: Vec::new(), leaf: Vec::new(), present: None, root: None }
    }
}

impl Lies {
    /// Serves the lies, and ships a machine there.
    async fn tell(self, pair: &Pair, base: Option<ship::Base>) -> ShipError {
        let mut table = Table::default();
        let calls = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let life = self.life;
        let life = move || life(calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let Self { base: there, leaves, leaf, present, root, .. } = self;
        let lived = life.clone();
        table.register(Open, move |_, _| {
            std::future::ready(Ok(Opened { life: lived(), committed: None, base: there.clone() }))
        });
        table.register(Map, move |_, _| std::future::ready(Ok(Leaves { hashes: Binary(leaves.clone().into()) })));
        table.register(GetLeaf, move |_, _| std::future::ready(Ok(Leaf { leaf: Binary(leaf.clone().into()) })));
        let lived = life.clone();
        table.register(Have, move |_, input| {
            let none = || vec![0; (input.hashes.0.len() / 32).div_ceil(8)];
            let present = Binary(present.clone().unwrap_or_else(none).into());
            std::future::ready(Ok(Had { life: lived(), present }))
        });
        let lived = life;
        table.register(Put, move |_, _| std::future::ready(Ok(Taken { life: lived() })));
        table.register(Commit, move |_, input| {
            std::future::ready(Ok(Instance {
                instance: input.instance,
                time_ms: input.time_ms,
                root: root.clone().unwrap_or(input.root),
                sequence: 1,
                transfer_bytes: 0,
            }))
        });
        let address = pair.serve(table).await;
        let config = Config { url: format!("http://{address}"), login: pair.login(), trust: Trust::Anything };
        let client = Client::new(config).unwrap();
        let way = Way {
            client,
            line: Line::new(None),
            memory: Memory::default(),
            maps: None,
            tagger: None,
            patience: Duration::from_millis(500),
        };
        let mut vm = Machine::new(1, &[10 * BLOCK]);
        vm.write(0, 3);
        vm.churn(10);
        vm.base = base;
        ship(vm.shipment(Mode::Full), &way, progress()).await.unwrap_err()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lying_destination_ends_the_sync() {
    let pair = Pair::start().await;
    let malformed = async |lies: Lies, base: bool| {
        let base = base.then(|| ship::Base { instance: "h4replica-x".to_owned(), root: None });
        let error = lies.tell(&pair, base).await;
        assert!(matches!(error, ShipError::Malformed(_)), "{error:?}");
    };
    malformed(Lies { present: Some(Vec::new()), ..Lies::default() }, false).await;
    malformed(Lies { present: Some(vec![0; 100_000]), ..Lies::default() }, false).await;
    malformed(Lies { life: |_| "x".repeat(10_000), ..Lies::default() }, false).await;
    malformed(Lies { root: Some("0".repeat(64)), ..Lies::default() }, false).await;
    // A base that is not there, that is nonsense, and that does not have its root.
    malformed(Lies::default(), true).await;
    let base = |root: &str, disks: Vec<Disk>| Some(Base { root: root.to_owned(), disks });
    let disk = |bytes: i64| vec![Disk { key: 2000, bytes }];
    malformed(Lies { base: base("x", Vec::new()), ..Lies::default() }, true).await;
    malformed(Lies { base: base(&"0".repeat(64), Vec::new()), ..Lies::default() }, true).await;
    malformed(Lies { base: base(&"0".repeat(64), disk(-1)), ..Lies::default() }, true).await;
    malformed(Lies { base: base(&"0".repeat(64), disk(i64::MAX)), ..Lies::default() }, true).await;
    malformed(Lies { base: base(&"0".repeat(64), disk(512)), leaves: vec![0; 31], ..Lies::default() }, true).await;
    malformed(Lies { base: base(&"0".repeat(64), disk(512)), leaves: vec![0; 32], ..Lies::default() }, true).await;
    // A leaf that does not have its hash.
    let bytes = 10 * BLOCK as u64;
    let root = [&2000u32.to_le_bytes()[..], &bytes.to_le_bytes(), &[5; 32]].concat();
    let root = blake3::hash(&root).to_hex().to_string();
    let lies =
        Lies { base: base(&root, disk(bytes as i64)), leaves: vec![5; 32], leaf: vec![6; 320], ..Lies::default() };
    malformed(lies, true).await;
    // One that is started anew for ever.
    let error =
        Lies { life: |call| call.to_string(), present: Some(vec![0xff]), ..Lies::default() }.tell(&pair, None).await;
    assert!(matches!(&error, ShipError::GaveUp { reason, .. } if reason.contains("anew")), "{error:?}");
    // One whose answers never end.
    let error = Lies { present: Some(vec![0; 3 << 20]), ..Lies::default() }.tell(&pair, None).await;
    assert!(matches!(error, ShipError::Peer(_)), "{error:?}");
}
