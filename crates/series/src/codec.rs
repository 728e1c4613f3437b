//! Blocks: consecutive rows of one series, column by column.
//!
//! ```text
//! block      times | column, K of them (1 of points: value; 5 of rollups: count, min, max, sum, last)
//! times      tag u8 | rest; the first time is not in the block but in the index
//!            0 regular  step varint                          a counter sampled on time: 2 to 3 bytes for all times
//!            1 varints  signed difference of differences each
//!            2 pco      length varint, steps as u32
//! column     tag u8 | rest
//!            0 constant f64
//!            1 trimmed  nibbles of byte counts, then the high bytes of each f64
//!            2 varints  scale u8, first signed, signed differences
//!            3 pco i64  scale u8, length varint, values times 10^scale
//!            4 pco f64  length varint, values
//! ```
//! Most counters are whole numbers, or have a few decimals because somebody rounded them. As integers they are compressed in a third
//! of the time that pco takes with the same values as floats, to between a third (bursts among zeroes) and all of the size. A
//! scale is taken only if every value comes back bit for bit. Short columns do without pco: its tables would be longer than they.

use pco::wrapped::{FileCompressor, FileDecompressor};
use pco::{ChunkConfig, DeltaSpec, ModeSpec};

use crate::Point;
use crate::error::Corrupt;
use crate::input::{Input, put_signed, put_varint, zigzag};

/// Most rows of a block: a partition sampled every 10 s in one piece, and little to decode for who reads some minutes of it.
pub(crate) const BLOCK_ROWS_MAX: usize = 1024;

/// Rows from which on pco is worth its time.
const PCO_ROWS_MIN: usize = 48;

/// pco's effort. With the kinds of the bench, level 8 gained at most 1.4 % in blocks of 720 and took up to a third longer; level 4 lost
/// at most 1 %.
const PCO_LEVEL: usize = 6;

/// A row: a time and what was measured then, or found over the window that begins then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Row<const K: usize> {
    pub(crate) time_s: i64,
    pub(crate) values: [f64; K],
}

impl From<Point> for Row<1> {
    fn from(point: Point) -> Self {
        Self { time_s: point.time_s, values: [point.value] }
    }
}

impl From<Row<1>> for Point {
    fn from(row: Row<1>) -> Self {
        let [value] = row.values;
        Self { time_s: row.time_s, value }
    }
}

/// Puts rows in order; of several with one time, the last given stays.
pub(crate) fn settle<const K: usize>(rows: &mut Vec<Row<K>>) {
    if rows.is_sorted_by(|one, next| one.time_s < next.time_s) {
        return;
    }
    rows.sort_by_key(|row| row.time_s);
    let mut kept = 0;
    for at in 0..rows.len() {
        if kept > 0 && rows[kept - 1].time_s == rows[at].time_s {
            kept -= 1;
        }
        rows[kept] = rows[at];
        kept += 1;
    }
    rows.truncate(kept);
}

/// Room for columns, kept from block to block.
#[derive(Default)]
pub(crate) struct Scratch {
    steps: Vec<u32>,
    integers: Vec<i64>,
    floats: Vec<f64>,
}

/// Appends the block of `rows`, which ascend strictly and are not empty.
pub(crate) fn encode<const K: usize>(rows: &[Row<K>], scratch: &mut Scratch, out: &mut Vec<u8>) {
    encode_times(rows, scratch, out);
    for column in 0..K {
        scratch.floats.clear();
        scratch.floats.extend(rows.iter().map(|row| row.values[column]));
        encode_values(scratch, out);
    }
}

fn encode_times<const K: usize>(rows: &[Row<K>], scratch: &mut Scratch, out: &mut Vec<u8>) {
    let steps = rows.windows(2).map(|pair| pair[1].time_s.wrapping_sub(pair[0].time_s));
    let first = steps.clone().next().unwrap_or(1);
    if steps.clone().all(|step| step == first) {
        out.push(0);
        put_varint(out, first as u64);
        return;
    }
    scratch.steps.clear();
    scratch.steps.extend(steps.clone().map_while(|step| u32::try_from(step).ok()));
    if rows.len() >= PCO_ROWS_MIN && scratch.steps.len() == rows.len() - 1 {
        let at = out.len();
        out.push(2);
        let config = config().with_mode_spec(ModeSpec::Classic).with_delta_spec(DeltaSpec::NoOp);
        if put_pco(&scratch.steps, &config, out) {
            return;
        }
        out.truncate(at);
    }
    out.push(1);
    let mut before = 0;
    for step in steps {
        put_signed(out, step.wrapping_sub(before));
        before = step;
    }
}

fn encode_values(scratch: &mut Scratch, out: &mut Vec<u8>) {
    let Scratch { floats, integers, .. } = scratch;
    let first = floats.first().copied().unwrap_or_default().to_bits();
    if floats.iter().all(|value| value.to_bits() == first) {
        out.push(0);
        out.extend_from_slice(&first.to_le_bytes());
        return;
    }
    let scale = scale_of(floats, integers);
    let at = out.len();
    if floats.len() >= PCO_ROWS_MIN {
        let is_put = match scale {
            Some(scale) => {
                out.extend_from_slice(&[3, scale]);
                let delta = if is_smoother_by_steps(integers) { 1 } else { 0 };
                let config =
                    config().with_mode_spec(ModeSpec::Classic).with_delta_spec(DeltaSpec::TryConsecutive(delta));
                put_pco(integers, &config, out)
            }
            None => {
                out.push(4);
                put_pco(floats, &config(), out)
            }
        };
        if is_put {
            return;
        }
        out.truncate(at);
    }
    match scale {
        Some(scale) => {
            out.extend_from_slice(&[2, scale]);
            let mut before = 0;
            for &integer in integers.iter() {
                put_signed(out, integer.wrapping_sub(before));
                before = integer;
            }
        }
        None => {
            out.push(1);
            put_trimmed(out, floats.iter().copied());
        }
    }
}

/// Whether differences take fewer bits than the values, less their least. pco's own search comes within 5 % of the same sizes and takes
/// twice the time.
fn is_smoother_by_steps(integers: &[i64]) -> bool {
    let bits = |number: u64| u64::from(64 - number.leading_zeros());
    let least = integers.iter().copied().min().unwrap_or_default();
    let plain: u64 = integers.iter().map(|&integer| bits(integer.wrapping_sub(least) as u64)).sum();
    let steps: u64 = integers.windows(2).map(|pair| bits(zigzag(pair[1].wrapping_sub(pair[0])))).sum();
    steps < plain
}

fn config() -> ChunkConfig {
    ChunkConfig::default().with_compression_level(PCO_LEVEL)
}

/// Appends numbers as pco makes them; false, with a part of it appended, when it cannot.
fn put_pco<T: pco::data_types::Number>(numbers: &[T], config: &ChunkConfig, out: &mut Vec<u8>) -> bool {
    let mut packed = Vec::with_capacity(numbers.len() * 2 + 64);
    let compressor = FileCompressor::default();
    let written = compressor.write_header(&mut packed).and_then(|packed| {
        let mut chunk = compressor.chunk_compressor(numbers, config)?;
        chunk.write_page(0, chunk.write_meta(packed)?)?;
        Ok(())
    });
    put_varint(out, packed.len() as u64);
    out.extend_from_slice(&packed);
    written.is_ok()
}

fn read_pco<T: pco::data_types::Number>(input: &mut Input<'_>, out: &mut [T]) -> Result<(), Corrupt> {
    const BAD: Corrupt = Corrupt("a column does not decompress");
    let length = input.count()?;
    let packed = input.bytes(length)?;
    let mut read = || {
        let (file, rest) = FileDecompressor::new(packed)?;
        let (mut chunk, rest) = file.chunk_decompressor::<T, _>(rest)?;
        chunk.page_decompressor(rest, out.len())?.read(out)
    };
    // Checked against what was asked for: pco stops early without an error at the end of a page.
    match read() {
        Ok(progress) if progress.n_processed == out.len() => Ok(()),
        Ok(_) | Err(_) => Err(BAD),
    }
}

const SCALES: [f64; 4] = [1.0, 10.0, 100.0, 1000.0];

/// The power of ten with which all values are integers that give the values back, and these integers.
fn scale_of(floats: &[f64], integers: &mut Vec<i64>) -> Option<u8> {
    // Differences of integers below 2^52 are exact, and so is their way through a float.
    const LIMIT: f64 = (1_u64 << 52) as f64;
    SCALES.iter().zip(0..).find_map(|(&factor, scale)| {
        integers.clear();
        integers.extend(floats.iter().map_while(|&value| {
            let scaled = (value * factor).round();
            let fits = scaled.abs() < LIMIT && (scaled as i64 as f64 / factor).to_bits() == value.to_bits();
            fits.then_some(scaled as i64)
        }));
        (integers.len() == floats.len()).then_some(scale)
    })
}

/// Appends the rows of a block; `out` may have grown when it fails.
pub(crate) fn decode<const K: usize>(
    block: &[u8],
    count: usize,
    first_s: i64,
    out: &mut Vec<Row<K>>,
) -> Result<(), Corrupt> {
    if count == 0 || count > BLOCK_ROWS_MAX {
        return Err(Corrupt("a block has an impossible number of rows"));
    }
    let mut input = Input::new(block);
    let start = out.len();
    out.resize(start + count, Row { time_s: first_s, values: [0.0; K] });
    let rows = &mut out[start..];
    decode_times(&mut input, rows)?;
    for column in 0..K {
        decode_values(&mut input, rows, column)?;
    }
    input.end()
}

fn decode_times<const K: usize>(input: &mut Input<'_>, rows: &mut [Row<K>]) -> Result<(), Corrupt> {
    let tag = input.u8()?;
    let mut time_s = rows.first().map_or(0, |row| row.time_s);
    match tag {
        0 => {
            let step = input.varint()? as i64;
            for row in &mut rows[1..] {
                time_s = time_s.wrapping_add(step);
                row.time_s = time_s;
            }
        }
        1 => {
            let mut step = 0_i64;
            for row in &mut rows[1..] {
                step = step.wrapping_add(input.signed()?);
                time_s = time_s.wrapping_add(step);
                row.time_s = time_s;
            }
        }
        2 => {
            let mut steps = [0_u32; BLOCK_ROWS_MAX];
            let steps = &mut steps[..rows.len() - 1];
            read_pco(input, steps)?;
            for (row, step) in rows[1..].iter_mut().zip(steps) {
                time_s = time_s.wrapping_add((*step).into());
                row.time_s = time_s;
            }
        }
        _ => return Err(Corrupt("unknown encoding of times")),
    }
    if !rows.is_sorted_by(|one, next| one.time_s < next.time_s) {
        return Err(Corrupt("times do not ascend"));
    }
    Ok(())
}

fn decode_values<const K: usize>(input: &mut Input<'_>, rows: &mut [Row<K>], column: usize) -> Result<(), Corrupt> {
    match input.u8()? {
        0 => {
            let value = f64::from_bits(input.u64()?);
            rows.iter_mut().for_each(|row| row.values[column] = value);
        }
        1 => read_trimmed(input, rows.len(), |nth, value| rows[nth].values[column] = value)?,
        2 => {
            let factor = factor(input)?;
            let mut integer = 0_i64;
            for row in rows {
                integer = integer.wrapping_add(input.signed()?);
                row.values[column] = integer as f64 / factor;
            }
        }
        3 => {
            let factor = factor(input)?;
            let mut integers = [0_i64; BLOCK_ROWS_MAX];
            let integers = &mut integers[..rows.len()];
            read_pco(input, integers)?;
            for (row, integer) in rows.iter_mut().zip(integers) {
                row.values[column] = *integer as f64 / factor;
            }
        }
        4 => {
            let mut floats = [0_f64; BLOCK_ROWS_MAX];
            let floats = &mut floats[..rows.len()];
            read_pco(input, floats)?;
            for (row, value) in rows.iter_mut().zip(floats) {
                row.values[column] = *value;
            }
        }
        _ => return Err(Corrupt("unknown encoding of values")),
    }
    Ok(())
}

fn factor(input: &mut Input<'_>) -> Result<f64, Corrupt> {
    SCALES.get(usize::from(input.u8()?)).copied().ok_or(Corrupt("unknown scale"))
}

/// Appends values without their low zero bytes, which whole and small numbers have many of: two byte counts a byte, then the
/// bytes. It takes about a nanosecond a value, which the log's write path can spare.
pub(crate) fn put_trimmed(out: &mut Vec<u8>, values: impl ExactSizeIterator<Item = f64>) {
    let count = values.len();
    let counts_at = out.len();
    let values_at = counts_at + count.div_ceil(2);
    // Every value is written as eight bytes and overwritten from its end by the next, hence the room for one more.
    out.resize(values_at + count * 8 + 8, 0);
    let (counts, bytes) = out[counts_at..].split_at_mut(count.div_ceil(2));
    let mut end = 0;
    for (nth, value) in values.enumerate() {
        let bits = value.to_bits();
        let kept = 8 - (bits.trailing_zeros() as usize / 8).min(8);
        counts[nth / 2] |= (kept as u8) << (4 * (nth % 2));
        bytes[end..end + 8].copy_from_slice(&bits.to_be_bytes());
        end += kept;
    }
    out.truncate(values_at + end);
}

/// Reads what [`put_trimmed`] wrote.
pub(crate) fn read_trimmed(
    input: &mut Input<'_>,
    count: usize,
    mut each: impl FnMut(usize, f64),
) -> Result<(), Corrupt> {
    let counts = input.bytes(count.div_ceil(2))?;
    for nth in 0..count {
        let kept = usize::from(counts[nth / 2] >> (4 * (nth % 2)) & 0xf);
        let mut bits = [0; 8];
        bits.get_mut(..kept).ok_or(Corrupt("a value is too long"))?.copy_from_slice(input.bytes(kept)?);
        each(nth, f64::from_bits(u64::from_be_bytes(bits)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check<const K: usize>(rows: &[Row<K>]) -> usize {
        let mut block = Vec::new();
        encode(rows, &mut Scratch::default(), &mut block);
        let mut found = Vec::new();
        decode(&block, rows.len(), rows[0].time_s, &mut found).unwrap();
        let bits = |rows: &[Row<K>]| -> Vec<(i64, [u64; K])> {
            rows.iter().map(|row| (row.time_s, row.values.map(f64::to_bits))).collect()
        };
        assert_eq!(bits(&found), bits(rows));
        for length in 0..block.len() {
            assert!(decode(&block[..length], rows.len(), rows[0].time_s, &mut found).is_err(), "cut at {length}");
        }
        block.len()
    }

    fn row(time_s: i64, value: f64) -> Row<1> {
        Row { time_s, values: [value] }
    }

    #[test]
    fn every_encoding_gives_back_every_bit() {
        for count in [1, 2, 3, 47, 48, 49, 720, BLOCK_ROWS_MAX] {
            let rows = |value: &dyn Fn(usize) -> f64| -> Vec<Row<1>> {
                (0..count).map(|nth| row(1_700_000_000 + nth as i64 * 10, value(nth))).collect()
            };
            check(&rows(&|_| f64::NAN));
            check(&rows(&|nth| (nth * 7 % 31) as f64));
            check(&rows(&|nth| (nth * 7 % 31) as f64 / 100.0));
            check(&rows(&|nth| (nth as f64).sqrt()));
            check(&rows(&|nth| if nth % 2 == 0 { -0.0 } else { 0.0 }));
            check(&rows(&|nth| [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, f64::MIN_POSITIVE / 8.0][nth % 4]));
            check(&rows(&|nth| nth as f64 * 1e300));
            let jittered: Vec<_> = (0..count as i64).map(|nth| row(-500 + nth * 10 + nth * nth % 3, 1.0)).collect();
            check(&jittered);
            let far: Vec<_> = (0..count as i64).map(|nth| row(nth * nth * (1 << 33), 1.0)).collect();
            check(&far);
            let rollups: Vec<_> = (0..count as i64)
                .map(|nth| Row { time_s: nth * 300, values: [30.0, 0.5, nth as f64, nth as f64 / 7.0, 1.0] })
                .collect();
            check(&rollups);
        }
    }

    #[test]
    fn a_sampled_counter_takes_little() {
        let mut state = 1_u64;
        let rows: Vec<_> = (0..720)
            .map(|nth| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                row(nth * 10, (2000 + (state >> 58)) as f64)
            })
            .collect();
        // 6 random bits each.
        assert!(check(&rows) < 720 * 6 / 8 + 60, "{}", check(&rows));
    }

    #[test]
    fn settling_keeps_the_last_of_each_time() {
        let mut rows = vec![row(3, 1.0), row(1, 1.0), row(3, 2.0), row(2, 1.0), row(1, 9.0)];
        settle(&mut rows);
        assert_eq!(rows, [row(1, 9.0), row(2, 1.0), row(3, 2.0)]);
    }

    proptest! {
        #[test]
        fn any_rows_come_back(values in proptest::collection::vec((1..100_000_i64, any::<f64>(), 0..5000_i32), 1..300)) {
            let mut time_s = -1000;
            let mut rows = Vec::new();
            for (step, value, whole) in values {
                time_s += step;
                rows.push(Row { time_s, values: [value, f64::from(whole) / 100.0] });
            }
            check(&rows);
        }

        #[test]
        fn anything_is_decoded_or_refused(block in proptest::collection::vec(any::<u8>(), 0..200), count in 0..2000_usize) {
            let mut rows: Vec<Row<1>> = Vec::new();
            let _ = decode(&block, count, 0, &mut rows);
        }
    }
}
