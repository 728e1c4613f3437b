use std::sync::Arc;

use lockstep_model::{Document, LeafChange, LeafPath, Name, Position, ResourceId, Value};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::{Change, Commit, Operation, StateEntry, Tombstone};

fn name() -> impl Strategy<Value = Name> {
    prop_oneof!["[a-d]", "[a-z]{3}/[a-z]{0,9}", "\\PC{0,4}"].prop_map(Name::from)
}

fn id() -> impl Strategy<Value = ResourceId> {
    (name(), "\\PC{0,40}").prop_map(|(resource_type, id)| ResourceId::new(&*resource_type, id))
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::Boolean),
        prop_oneof![any::<i64>(), -40i64..40].prop_map(Value::Long),
        prop::num::f64::NORMAL.prop_map(Value::Double),
        "\\PC{0,40}".prop_map(|text| Value::String(text.into())),
        id().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..40).prop_map(|items| Value::List(items.into())),
            vec((name(), inner), 0..5).prop_map(|fields| Value::Struct(fields.into())),
        ]
    })
}

fn document() -> impl Strategy<Value = Document> {
    vec((name(), value()), 0..6).prop_map(Document::new)
}

fn leaf() -> impl Strategy<Value = LeafChange> {
    let value = || prop::option::of(value());
    (name(), value(), value()).prop_map(|(path, old, new)| LeafChange { path: LeafPath::new(&*path), old, new })
}

fn change() -> impl Strategy<Value = Change> {
    let operation = prop_oneof![
        document().prop_map(Operation::Create),
        vec(leaf(), 1..5).prop_map(Operation::Update),
        document().prop_map(Operation::Delete),
    ];
    // Of few lists of parents, so that they repeat.
    let parents = vec("[ab]".prop_map(|id| ResourceId::new("P", id)), 0..2).prop_map(Arc::from);
    (id(), operation, parents).prop_map(|(id, operation, parents)| Change { id, operation, parents })
}

fn commits() -> impl Strategy<Value = Vec<Commit>> {
    (any::<i64>(), 0..u64::MAX - 9, vec((name(), vec(change(), 0..4)), 1..5)).prop_map(|(time_ms, first, all)| {
        let numbered = all.into_iter().zip(first..);
        let commit = |((author, changes), position)| Commit { position: Position(position), time_ms, author, changes };
        numbered.map(commit).collect()
    })
}

fn entry() -> impl Strategy<Value = StateEntry> {
    let position = || any::<u64>().prop_map(Position);
    (id(), document(), position(), position(), any::<(i64, i64)>()).prop_map(
        |(id, document, created, modified, (created_ms, modified_ms))| StateEntry {
            id,
            document,
            created,
            modified,
            created_ms,
            modified_ms,
        },
    )
}

fn tombstone() -> impl Strategy<Value = Tombstone> {
    (id(), any::<(u64, u64)>(), any::<(i64, i64)>()).prop_map(|(id, (created, deleted), (created_ms, deleted_ms))| {
        Tombstone { id, created: Position(created), deleted: Position(deleted), created_ms, deleted_ms }
    })
}

fn step() -> impl Strategy<Value = Step> {
    let operation = prop_oneof![
        document().prop_map(StepOperation::Create),
        vec(leaf(), 0..5).prop_map(StepOperation::Update),
        Just(StepOperation::Delete),
    ];
    (id(), any::<u64>(), any::<i64>(), operation).prop_map(|(id, position, time_ms, operation)| Step {
        id,
        position: Position(position),
        time_ms,
        operation,
    })
}

fn encode(encoder: &mut Encoder, commits: &[Commit]) -> Vec<u8> {
    encoder.begin_commits(commits[0].time_ms);
    commits.iter().for_each(|commit| encoder.commit(&commit.author, commit.changes.iter()));
    encoder.finish().to_vec()
}

fn decode(payload: &[u8], first: u64, count: usize, names: &mut Interner) -> Result<Vec<Commit>, CodecError> {
    let mut commits = Vec::new();
    decode_commits(payload, first, count as u32, names, |commit| commits.push(commit)).map(|()| commits)
}

proptest! {
    #[test]
    fn commits_read_back_as_they_were_written(payloads in vec(commits(), 1..4)) {
        // One encoder and one interner for all, as the writer and the readers keep theirs.
        let (mut encoder, mut names) = (Encoder::default(), Interner::default());
        for commits in payloads {
            let payload = encode(&mut encoder, &commits);
            prop_assert_eq!(commits_time_ms(&payload), Ok(commits[0].time_ms));
            prop_assert_eq!(decode(&payload, commits[0].position.0, commits.len(), &mut names), Ok(commits));
        }
    }

    #[test]
    fn records_read_back_as_they_were_written(
        entries in vec(entry(), 0..5),
        tombstones in vec(tombstone(), 0..5),
        steps in vec(step(), 0..5),
    ) {
        let (mut encoder, mut names) = (Encoder::default(), Interner::default());
        encoder.begin();
        entries.iter().for_each(|entry| encoder.entry(entry));
        let mut found = Vec::new();
        decode_entries(encoder.finish(), entries.len() as u32, &mut names, |entry| found.push(entry)).unwrap();
        prop_assert_eq!(found, entries);

        encoder.begin();
        tombstones.iter().for_each(|tombstone| encoder.tombstone(tombstone));
        let mut found = Vec::new();
        decode_tombstones(encoder.finish(), tombstones.len() as u32, &mut names, |tombstone| found.push(tombstone)).unwrap();
        prop_assert_eq!(found, tombstones);

        encoder.begin();
        steps.iter().for_each(|step| encoder.step(step));
        let mut found = Vec::new();
        decode_steps(encoder.finish(), steps.len() as u32, &mut names, |step| found.push(step)).unwrap();
        prop_assert_eq!(found, steps);
    }

    #[test]
    fn what_is_rolled_back_leaves_no_trace(kept in commits(), dropped in commits(), more in commits()) {
        let mut encoder = Encoder::default();
        encoder.begin_commits(kept[0].time_ms);
        kept.iter().for_each(|commit| encoder.commit(&commit.author, commit.changes.iter()));
        let mark = encoder.mark();
        dropped.iter().for_each(|commit| encoder.commit(&commit.author, commit.changes.iter()));
        encoder.roll_back(mark);
        more.iter().for_each(|commit| encoder.commit(&commit.author, commit.changes.iter()));
        let rolled_back = encoder.finish().to_vec();

        let mut encoder = Encoder::default();
        encoder.begin_commits(kept[0].time_ms);
        kept.iter().chain(&more).for_each(|commit| encoder.commit(&commit.author, commit.changes.iter()));
        prop_assert_eq!(rolled_back, encoder.finish());
    }

    #[test]
    fn any_bytes_are_an_answer(bytes in vec(any::<u8>(), 0..200), count in 0u32..9) {
        let names = &mut Interner::default();
        let _ = decode_commits(&bytes, 1, count, names, drop);
        let _ = decode_entries(&bytes, count, names, drop);
        let _ = decode_tombstones(&bytes, count, names, drop);
        let _ = decode_steps(&bytes, count, names, drop);
        let _ = crate::decode_frame(&bytes);
    }

    #[test]
    fn any_damage_to_a_payload_is_an_answer(
        commits in commits(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut payload = encode(&mut Encoder::default(), &commits);
        for (at, byte) in damage {
            let at = at.index(payload.len());
            payload[at] = byte;
        }
        let _ = decode(&payload, 1, commits.len(), &mut Interner::default());
        payload.truncate(cut.index(payload.len()));
        let _ = decode(&payload, 1, commits.len(), &mut Interner::default());
    }
}

/// A payload of one commit with one create, whose document is these bytes.
fn payload(document: &[u8]) -> Vec<u8> {
    let mut payload = vec![0; 4];
    // Time, author 0, one change: a create of type 0, id "i", no parents.
    payload.extend([0, 0, 1, CREATE, 0, 1, b'i', 0, 0]);
    payload.extend(document);
    let table = payload.len() as u32;
    payload[..4].copy_from_slice(&table.to_le_bytes());
    payload.extend([1, 1, b't']);
    payload
}

#[test]
fn impossible_payloads_are_refused() {
    let check = |document: &[u8], expected| {
        let found = decode(&payload(document), 1, 1, &mut Interner::default()).map(|commits| commits.len());
        assert_eq!(found, expected, "{document:?}");
    };
    check(&[0], Ok(1));
    check(&[1, 0, 1 << 3], Ok(1));
    check(&[1, 1, 1 << 3], Err(CodecError("a name is not in the table")));
    check(&[1, 0, 7], Err(CodecError("unknown kind of value")));
    check(&[1, 0, 2 << 3 | 3, b'x', 0xff], Err(CodecError("a text is not UTF-8")));
    check(&[1, 0, 4 << 3 | 3, b'x'], Err(CodecError("a count is larger than what follows")));
    check(&[0xff, 0xff, 0xff, 0xff, 0x0f], Err(CodecError("a count is larger than what follows")));
    check(&[1, 0, 31 << 3 | 5, 0xff, 0xff, 0xff, 0xff, 0x0f], Err(CodecError("a count is larger than what follows")));
    check(&[1, 0, 31 << 3 | 1, 0xff], Err(CodecError("ends too early")));
    check(&[1, 0, 1 << 3, 9], Err(CodecError("bytes after the last record")));
    let nested = |levels: usize| [&[1, 0][..], &vec![1 << 3 | 5; levels], &[0]].concat();
    check(&nested(DEPTH_MAX), Ok(1));
    check(&nested(DEPTH_MAX + 1), Err(CodecError("nested too deep")));
    check(&nested(1_000_000), Err(CodecError("nested too deep")));
}

#[test]
fn numbers_keep_all_their_bits() {
    for number in [0, 1, -1, 15, 16, -16, i64::MAX, i64::MIN, i64::MIN + 1] {
        assert_eq!(unzigzag(zigzag(number)), number);
    }
    for bad in [&[0xff; 10][..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2], &[0x80; 20]] {
        assert!(Input::new(bad).varint().is_err(), "{bad:?}");
    }
    assert_eq!(Input::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]).varint(), Ok(u64::MAX));
}
