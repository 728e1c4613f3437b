//! Resources on their way: one LZ4 block of lines, see [`lockstep_contract::services::link_pull`].
//!
//! Text, since the reader has to hold every property against the model anyway, and one pass over JSON does that and makes the
//! document; the block makes a quarter or a tenth of it.

use lockstep_contract::Binary;
use lockstep_query::ResourceRef;

use crate::SyncError;

/// Largest frame, unpacked. A writer stops long before; one resource of the largest size still fits.
pub(crate) const FRAME_BYTES_MAX: usize = 32 << 20;

/// A writer closes a frame that has this many bytes.
const FULL_BYTES: usize = 1 << 20;

/// A writer closes a frame that has this many lines.
const FULL_LINES: usize = 2000;

/// Most lines that a reader takes: writers of other versions may fill frames further.
const LINES_MAX: usize = 100_000;

/// A frame that is being filled.
#[derive(Default)]
pub(crate) struct FrameWriter {
    text: Vec<u8>,
    lines: usize,
}

impl FrameWriter {
    /// Adds a resource as it stands.
    pub(crate) fn put(&mut self, resource: &ResourceRef<'_>) {
        self.head(resource.resource_type(), resource.id());
        resource.write_json(&mut self.text);
        self.text.push(b'\n');
    }

    /// Adds a line of its own, whose JSON has no line ends in it.
    pub(crate) fn line(&mut self, resource_type: &str, id: &str, json: &str) {
        self.head(resource_type, id);
        self.text.extend_from_slice(json.as_bytes());
        self.text.push(b'\n');
    }

    /// Adds that a resource is gone.
    pub(crate) fn gone(&mut self, resource_type: &str, id: &str) {
        self.head(resource_type, id);
        self.text.push(b'\n');
    }

    fn head(&mut self, resource_type: &str, id: &str) {
        self.lines += 1;
        self.text.extend_from_slice(resource_type.as_bytes());
        self.text.push(b'\t');
        self.text.extend_from_slice(id.as_bytes());
        self.text.push(b'\t');
    }

    /// Whether no more should be added.
    pub(crate) fn is_full(&self) -> bool {
        self.lines >= FULL_LINES || self.text.len() >= FULL_BYTES
    }

    /// Whether nothing has been added.
    pub(crate) fn is_empty(&self) -> bool {
        self.lines == 0
    }

    /// The frame.
    pub(crate) fn finish(&self) -> Binary {
        Binary(lz4_flex::block::compress_prepend_size(&self.text).into())
    }
}

/// A frame, unpacked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Frame {
    text: String,
}

/// A line of a frame: where a resource's parts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    pub(crate) resource_type: &'a str,
    pub(crate) id: &'a str,
    /// The properties as JSON; empty when it is gone.
    pub(crate) json: &'a str,
}

impl Frame {
    /// Unpacks a frame that came from elsewhere: nothing it says is believed, its length least of all.
    pub(crate) fn open(frame: &Binary) -> Result<Self, SyncError> {
        let malformed = |what: String| SyncError::Malformed { what };
        let (length, block) = lz4_flex::block::uncompressed_size(&frame.0).map_err(|e| malformed(e.to_string()))?;
        if length > FRAME_BYTES_MAX {
            return Err(malformed(format!("a frame of {length} bytes; {FRAME_BYTES_MAX} are the most")));
        }
        let text = lz4_flex::block::decompress(block, length).map_err(|e| malformed(format!("a broken frame: {e}")))?;
        let text = String::from_utf8(text).map_err(|e| malformed(format!("a frame that is no text: {e}")))?;
        let lines = memchr::memchr_iter(b'\n', text.as_bytes()).count();
        if lines > LINES_MAX {
            return Err(malformed(format!("a frame of {lines} resources; {LINES_MAX} are the most")));
        }
        match text.as_bytes().last() {
            None | Some(b'\n') => Ok(Self { text }),
            Some(_) => Err(malformed("a frame that ends within a line".to_owned())),
        }
    }

    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// How many resources are in it.
    pub(crate) fn len(&self) -> u64 {
        memchr::memchr_iter(b'\n', self.text.as_bytes()).count() as u64
    }

    /// The resources.
    pub(crate) fn lines(&self) -> impl Iterator<Item = Result<Line<'_>, SyncError>> {
        self.text.lines().map(|line| {
            let mut parts = line.splitn(3, '\t');
            match (parts.next(), parts.next(), parts.next()) {
                (Some(resource_type), Some(id), Some(json)) => Ok(Line { resource_type, id, json }),
                _ => Err(SyncError::Malformed { what: "a line of a frame without type, id and properties".to_owned() }),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_comes_out() {
        let mut writer = FrameWriter::default();
        assert!(writer.is_empty() && Frame::open(&writer.finish()).unwrap().is_empty());
        writer.gone("Tag", "a b");
        writer.gone("Tag", "ü~");
        let frame = Frame::open(&writer.finish()).unwrap();
        let lines: Vec<_> = frame.lines().map(Result::unwrap).collect();
        assert_eq!(frame.len(), 2);
        assert_eq!(lines[1], Line { resource_type: "Tag", id: "ü~", json: "" });
    }

    #[test]
    fn a_frame_that_lies_is_refused() {
        let pack = |text: &[u8]| Binary(lz4_flex::block::compress_prepend_size(text).into());
        // What is packed, with a length that is none.
        let lie = |text: &[u8], length: u32| {
            let mut packed = lz4_flex::block::compress_prepend_size(text);
            packed[..4].copy_from_slice(&length.to_le_bytes());
            Binary(packed.into())
        };
        for (bad, expected) in [
            (Binary(vec![1].into()), ""),
            (lie(b"x\n", u32::MAX), "bytes"),
            (pack(b"Tag\ta\t{}"), "within a line"),
            (pack(&[0xff, b'\n']), "no text"),
            (pack(&[b'\n'; LINES_MAX + 1]), "resources"),
        ] {
            let error = Frame::open(&bad).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        // A block shorter than it says is either refused or cut at what there is.
        if let Ok(frame) = Frame::open(&lie(b"Tag\ta\t\n", 100)) {
            assert_eq!(frame.len(), 1);
        }
        let bare = Frame::open(&pack(b"Tag\ta\n")).unwrap();
        assert!(bare.lines().next().unwrap().is_err());
    }
}
