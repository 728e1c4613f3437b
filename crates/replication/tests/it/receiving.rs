//! A source that lies, and links that ask for what is not theirs.

use lockstep_client::{Client, ClientError};
use lockstep_contract::services::replication_receive::{
    Abandon, Commit, CommitInput, Disk, GetLeaf, HASHES_MAX, Have, HaveInput, InstanceInput, LeafInput, Map, MapInput,
    Open, OpenInput, Put, PutInput,
};
use lockstep_contract::{Binary, ErrorKind};
use lockstep_replication::frame::{FrameWriter, Hash};
use lockstep_replication::receive::{BLOCKS_MISSING, NO_DRAFT, ROOT_DIFFERS};

use crate::pair::{BLOCK, Machine, Mode, Pair};

const INSTANCE: &str = "h4replica-01234567-89ab-cdef-0123-456789abcdef";

fn open(replication: &str) -> OpenInput {
    OpenInput {
        replication: replication.to_owned(),
        instance: INSTANCE.to_owned(),
        base: None,
        disks: vec![Disk { key: 2000, bytes: 10 * BLOCK as i64 }],
    }
}

fn put(frame: Vec<u8>) -> PutInput {
    PutInput { replication: "1-vm".to_owned(), instance: INSTANCE.to_owned(), frame: Binary(frame.into()) }
}

fn named() -> InstanceInput {
    InstanceInput { replication: "1-vm".to_owned(), instance: INSTANCE.to_owned() }
}

fn commit(root: Hash) -> CommitInput {
    CommitInput {
        replication: "1-vm".to_owned(),
        instance: INSTANCE.to_owned(),
        root: blake3::Hash::from_bytes(root).to_hex().to_string(),
        time_ms: 0,
    }
}

/// The kind, the id and the text of a refusal.
fn refusal<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> (ErrorKind, String, String) {
    match outcome.unwrap_err() {
        ClientError::Refusal { error, .. } => {
            let text: Vec<String> = error.messages.iter().map(|m| m.default_message.clone()).collect();
            (error.kind, error.messages[0].id.clone(), text.join(": "))
        }
        other => panic!("{other:?}"),
    }
}

fn frame_of(hash: Hash, plain_bytes: usize, bytes: &[u8]) -> Vec<u8> {
    let mut writer = FrameWriter::default();
    writer.block(&hash, plain_bytes, |out| out.extend_from_slice(bytes));
    writer.finish()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_lying_source_is_stored() {
    let pair = Pair::start().await;
    let client = pair.client(1);
    client.call(Open, open("1-vm")).await.unwrap();
    let plain = vec![7u8; BLOCK];
    let hash = *blake3::hash(&plain).as_bytes();
    let packed = zstd::bulk::compress(&plain, 1).unwrap();
    let bomb = zstd::bulk::compress(&vec![7u8; 64 << 20], 19).unwrap();
    let mut half_good = FrameWriter::default();
    half_good.block(&hash, BLOCK, |out| out.extend_from_slice(&packed));
    half_good.block(&[1; 32], BLOCK, |out| out.extend_from_slice(&packed));
    let cases = [
        ("its bytes do not have its hash", frame_of([1; 32], BLOCK, &packed)),
        ("its bytes do not have its hash", frame_of([1; 32], BLOCK, &plain)),
        ("its bytes do not have its hash", half_good.finish()),
        ("another length", frame_of(hash, BLOCK - 1, &packed)),
        ("cannot be unpacked", frame_of(hash, BLOCK, &bomb)),
        ("cannot be unpacked", frame_of(hash, BLOCK, b"no zstd")),
        ("ends in the middle", frame_of(hash, BLOCK, &packed)[..60].to_vec()),
        ("version", b"\x00-of-nothing".to_vec()),
        ("ends in the middle", Vec::new()),
        ("are the most", vec![1; 7 << 20]),
    ];
    for (reason, frame) in cases {
        let (kind, _, text) = refusal(client.call(Put, put(frame)).await);
        assert!(kind == ErrorKind::InvalidArgument && text.contains(reason), "{reason}: {text}");
    }
    assert_eq!(pair.store().block_count(), 0);
    let entry = |disk: u32, block: u32| {
        let mut writer = FrameWriter::default();
        writer.entry(disk, block, Some(hash));
        put(writer.finish())
    };
    assert!(refusal(client.call(Put, entry(2000, 10)).await).2.contains("behind the end"));
    assert_eq!(refusal(client.call(Put, entry(2001, 0)).await).0, ErrorKind::NotFound);
    // Endless: more than any body may hold.
    assert!(client.call(Put, put(vec![1; 17 << 20])).await.is_err());
    // A map without its block, and a root that is not the map's.
    client.call(Put, entry(2000, 0)).await.unwrap();
    assert_eq!(refusal(client.call(Commit, commit([0; 32])).await).1, ROOT_DIFFERS);
    let leaf: Vec<u8> = [&hash[..], &[0; 9 * 32]].concat();
    let root =
        [&2000u32.to_le_bytes()[..], &(10 * BLOCK as u64).to_le_bytes(), blake3::hash(&leaf).as_bytes()].concat();
    let root = *blake3::hash(&root).as_bytes();
    assert_eq!(refusal(client.call(Commit, commit(root)).await).1, BLOCKS_MISSING);
    assert!(pair.store().instances().is_empty());
    // The draft has suffered none of it.
    client.call(Put, put(frame_of(hash, BLOCK, &packed))).await.unwrap();
    let committed = client.call(Commit, commit(root)).await.unwrap();
    // An answer that was lost is asked for again.
    assert_eq!(client.call(Commit, commit(root)).await.unwrap(), committed);
    assert_eq!(refusal(client.call(Commit, commit([0; 32])).await).1, ROOT_DIFFERS);
    assert_eq!(client.call(Open, open("1-vm")).await.unwrap().committed, Some(committed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_and_lists_have_limits() {
    let pair = Pair::start().await;
    let client = pair.client(1);
    let is_invalid =
        |outcome: (ErrorKind, String, String)| assert_eq!(outcome.0, ErrorKind::InvalidArgument, "{outcome:?}");
    let disk = |key: i64, bytes: i64| Disk { key, bytes };
    for disks in [vec![], vec![disk(1, 513)], vec![disk(1, 512), disk(1, 512)], (0..65).map(|i| disk(i, 512)).collect()]
    {
        is_invalid(refusal(client.call(Open, OpenInput { disks, ..open("1-vm") }).await));
    }
    is_invalid(refusal(client.call(Open, OpenInput { base: Some("x".to_owned()), ..open("1-vm") }).await));
    client.call(Open, open("1-vm")).await.unwrap();
    let have = |hashes: Vec<u8>| HaveInput {
        replication: "1-vm".to_owned(),
        instance: INSTANCE.to_owned(),
        hashes: Binary(hashes.into()),
    };
    assert!(client.call(Have, have(Vec::new())).await.unwrap().present.0.is_empty());
    assert_eq!(client.call(Have, have(vec![0; 9 * 32])).await.unwrap().present.0, [0, 0][..]);
    is_invalid(refusal(client.call(Have, have(vec![0; 33])).await));
    is_invalid(refusal(client.call(Have, have(vec![0; (HASHES_MAX + 1) * 32])).await));
    let map = |first: i64, count: i64| MapInput {
        replication: "1-vm".to_owned(),
        instance: INSTANCE.to_owned(),
        disk: 2000,
        first,
        count,
    };
    is_invalid(refusal(client.call(Map, map(-1, 1)).await));
    is_invalid(refusal(client.call(Map, map(0, 1 << 20)).await));
    is_invalid(refusal(client.call(Commit, CommitInput { root: "x".to_owned(), ..commit([0; 32]) }).await));
    // A draft is no instance to read the map of.
    assert_eq!(refusal(client.call(Map, map(0, 1)).await).0, ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_has_its_own_replications_and_no_others() {
    let pair = Pair::start().await;
    let mut vm = Machine::new(1, &[20 * BLOCK]);
    vm.churn(20);
    vm.sync(&pair, Mode::Full).await.unwrap();
    let committed = vm.base.clone().unwrap().instance;
    let (own, other) = (pair.client(1), pair.client(2));
    own.call(Open, open("1-vm")).await.unwrap();
    let not_found = |outcome: (ErrorKind, String, String)| assert_eq!(outcome.0, ErrorKind::NotFound, "{outcome:?}");
    let ask = async |client: &Client| {
        not_found(refusal(client.call(Open, open("1-vm")).await));
        not_found(refusal(client.call(Put, put(FrameWriter::default().finish())).await));
        let hashes = Binary(vec![0; 32].into());
        let have = HaveInput { replication: "1-vm".to_owned(), instance: INSTANCE.to_owned(), hashes };
        not_found(refusal(client.call(Have, have).await));
        not_found(refusal(client.call(Commit, commit([0; 32])).await));
        not_found(refusal(client.call(Abandon, named()).await));
        let (replication, instance) = ("1-vm".to_owned(), committed.clone());
        let map =
            MapInput { replication: replication.clone(), instance: instance.clone(), disk: 2000, first: 0, count: 1 };
        not_found(refusal(client.call(Map, map).await));
        not_found(refusal(client.call(GetLeaf, LeafInput { replication, instance, disk: 2000, leaf: 0 }).await));
    };
    ask(&other).await;
    assert_eq!(pair.store().draft_count(), 1);
    // And who is no link may not ask at all.
    own.call(Abandon, named()).await.unwrap();
    assert_eq!(refusal(own.call(Put, put(FrameWriter::default().finish())).await).1, NO_DRAFT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draft_is_found_again_after_a_restart() {
    let pair = Pair::start().await;
    let client = pair.client(1);
    let life = client.call(Open, open("1-vm")).await.unwrap().life;
    let plain = vec![7u8; BLOCK];
    let hash = *blake3::hash(&plain).as_bytes();
    assert_eq!(client.call(Put, put(frame_of(hash, BLOCK, &plain))).await.unwrap().life, life);
    pair.kill();
    pair.revive();
    let hashes = Binary([hash, [1; 32]].concat().into());
    let have = || HaveInput { replication: "1-vm".to_owned(), instance: INSTANCE.to_owned(), hashes: hashes.clone() };
    // The connection that is kept is a dead one: the first call may find out.
    let had = match client.call(Have, have()).await {
        Ok(had) => had,
        Err(error) => {
            assert!(error.is_transient(), "{error}");
            client.call(Have, have()).await.unwrap()
        }
    };
    assert_eq!(had.present.0, [1][..]);
    assert_ne!(had.life, life, "what was not durable may be gone");
}
