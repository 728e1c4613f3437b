//! From matching rows to the page that was asked for, in order.
//!
//! Two ways lead there. *Selecting* takes the sort key of every match and finds the first few: right for few matches.
//! *Walking* goes through a sorted index and stops when the page is full: right for many. A deep page is reached in the
//! index by counts of matches per block, which are remembered from page to page. Rows in which the first criterion is unset
//! are arranged by the other criteria behind those in which it is set; so are ties.

use std::borrow::Cow;

use crate::bits::Bits;
use crate::eval::Tally;
use crate::key::{Key, Page};
use crate::leaf::text_key;
use crate::order::Place;
use crate::policy::{prefer_first, size};
use crate::rows::Rows;
use crate::space::Row;
use crate::step::{Step, What};
use crate::view::View;
use crate::walk::{Counts, Runs, SKIP_FEW, Walk};

/// So many matches or fewer are always selected.
const SELECT_FEW: usize = size(256, 1);

/// Finding all matches is never avoided when it takes less than this, in nanoseconds.
const FILL_NS: usize = size(50_000, 1);

/// A run of equal values longer than this is looked up in the index instead of being walked backwards.
const RUN_LONG: usize = size(256, 2);

/// When ways are compared, an index that is not there costs a nanosecond for so many rows: about a thousandth of what building
/// takes, as the index stays for all queries to come.
const BUILD_ROWS_PER_NS: usize = 4;

/// Matches of one type.
pub(crate) struct Part<'v> {
    pub(crate) space: u32,
    pub(crate) rows: Rows<'v>,
}

pub(crate) struct Arranger<'v, 't> {
    pub(crate) view: &'v View,
    pub(crate) tally: &'t Tally<'v>,
    /// Says which filter the matches come from, for remembering counts.
    pub(crate) filter_key: u64,
}

impl<'v> Arranger<'v, '_> {
    /// Fills a page without finding all matches first: goes through an index and tests row by row. Only for an order by id, or
    /// by one property of the resource itself; only if that is estimated to be quicker, and not for longer than estimated.
    /// `None` when the page is not full by then.
    pub(crate) fn fill(
        &self,
        step: &Step<'v>,
        space: u32,
        keys: &[Key<'v>],
        skip: usize,
        take: usize,
    ) -> Option<Vec<Row>> {
        let spaces = &self.view.spaces;
        let all = spaces.get(space).live_count;
        let wanted = skip.saturating_add(take);
        let rows_ns = step.rows_ns(all);
        if matches!(step.what, What::Everything) || step.estimate < wanted || rows_ns < FILL_NS {
            return None;
        }
        // An estimate can be wrong, and the rows that match can be last.
        let walked = wanted.saturating_mul(all) / step.estimate.max(1) * 2;
        let row_ns = step.test_ns() + 3;
        if !prefer_first(walked.saturating_mul(row_ns), rows_ns) {
            return None;
        }
        let order = match keys {
            [] => self.view.id_order(space)?,
            [key] if key.hops.is_empty() && key.space == space && !key.descending => {
                key.column.leaf.order(space, spaces)
            }
            _ => return None,
        };
        self.tally.index("order", keys.first().map_or(spaces.get(space).name.as_str(), |key| key.text));
        let mut page = Page::new(skip, take);
        let mut tested = 0;
        for row in order.rows(Place { block: 0, at: 0 }, order.end()).take(rows_ns / row_ns) {
            tested += 1;
            if step.test(row, spaces) {
                page.push(Row { space, row });
                if page.is_full() {
                    break;
                }
            }
        }
        step.tested.set(tested);
        self.tally.examine(tested);
        page.is_full().then_some(page.rows)
    }

    /// Puts the wanted rows of `parts`, which are in the order of their types, on the page.
    pub(crate) fn arrange(&self, mut parts: Vec<Part<'v>>, keys: &[Key<'v>], page: &mut Page) {
        if page.is_full() {
            return;
        }
        let Some((key, rest)) = keys.split_first() else {
            for part in parts {
                self.by_id(part, page);
            }
            return;
        };
        let Some(at) = parts.iter().position(|part| part.space == key.space) else {
            return self.arrange(parts, rest, page);
        };
        let count: usize = parts.iter().map(|part| part.rows.count(self.view.spaces.get(part.space))).sum();
        if count <= page.skip {
            page.skip -= count;
            return;
        }
        if self.should_select(key, &parts[at], count, page) {
            return self.select(parts, keys, page);
        }
        if key.hops.is_empty() {
            self.walk_own(&parts[at], key, rest, page);
        } else {
            self.walk_related(&parts[at], key, rest, page);
        }
        if page.is_full() {
            return;
        }
        let space = self.view.spaces.get(key.space);
        let mut unset = Vec::new();
        self.tally.examine(parts[at].rows.count(space));
        parts[at].rows.each(space, |row| {
            if key.far(self.view, row).is_none() {
                unset.push(row);
            }
        });
        parts[at].rows = Rows::List(unset);
        self.arrange(parts, rest, page);
    }

    /// Whether looking at every match is quicker than walking through an index until the page is full.
    fn should_select(&self, key: &Key<'v>, part: &Part<'v>, count: usize, page: &Page) -> bool {
        if count <= SELECT_FEW {
            return true;
        }
        let all = self.view.spaces.get(part.space).live_count;
        let select_ns = count * if key.column.leaf.is_key_exact() { 25 } else { 80 };
        let (skip, per_row_ns) =
            if key.hops.is_empty() { (if page.skip > SKIP_FEW { SKIP_FEW } else { page.skip }, 3) } else { (0, 6) };
        let walked = (skip + page.take).saturating_mul(all) / count;
        let is_built = key.column.leaf.order.get().is_some();
        let build_ns = if is_built { 0 } else { self.view.spaces.get(key.far_space).live_count / BUILD_ROWS_PER_NS };
        prefer_first(select_ns, walked.min(all) * per_row_ns + all / 100 + build_ns)
    }

    /// Takes the key of every match.
    fn select(&self, parts: Vec<Part<'v>>, keys: &[Key<'v>], page: &mut Page) {
        let view = self.view;
        let count = parts.iter().map(|part| part.rows.count(view.spaces.get(part.space))).sum();
        self.tally.examine(count);
        let mut entries: Vec<(u128, Row)> = Vec::with_capacity(count);
        let Some((key, rest)) = keys.split_first() else {
            self.each(&parts, |at| entries.push((text_key(view.spaces.get(at.space).id(at.row)), at)));
            return self.select_by(entries, keys, page);
        };
        let mut rows = Vec::with_capacity(count);
        self.each(&parts, |at| rows.extend((at.space == key.space).then(|| key.far(view, at.row)).flatten()));
        key.column.leaf.touch(&rows, &view.spaces);
        self.each(&parts, |at| entries.push((key.number(view, at), at)));
        if key.column.leaf.is_key_exact() {
            self.select_exact(entries, rest, page);
        } else {
            self.select_by(entries, keys, page);
        }
    }

    fn each(&self, parts: &[Part<'v>], mut f: impl FnMut(Row)) {
        for part in parts {
            part.rows.each(self.view.spaces.get(part.space), |row| f(Row { space: part.space, row }));
        }
    }

    /// Arranges by numbers that order as the first criterion does; ties are then arranged by the others.
    fn select_exact(&self, mut entries: Vec<(u128, Row)>, rest: &[Key<'v>], page: &mut Page) {
        let end = page.skip.saturating_add(page.take);
        if end < entries.len() {
            let last = entries.select_nth_unstable_by_key(end - 1, |e| e.0).1.0;
            entries.retain(|e| e.0 <= last);
        }
        if page.skip > 0 && page.skip < entries.len() {
            let first = entries.select_nth_unstable_by_key(page.skip, |e| e.0).1.0;
            let before = entries.len();
            entries.retain(|e| e.0 >= first);
            page.skip -= before - entries.len();
        }
        entries.sort_unstable_by_key(|e| e.0);
        for ties in entries.chunk_by(|a, b| a.0 == b.0) {
            match ties {
                ties if ties.len() <= page.skip => page.skip -= ties.len(),
                [(_, only)] => page.push(*only),
                ties => {
                    let mut spaces: Vec<u32> = ties.iter().map(|(_, at)| at.space).collect();
                    spaces.sort_unstable_by_key(|&space| &self.view.spaces.get(space).name);
                    spaces.dedup();
                    let of = |space: u32| {
                        ties.iter().filter(move |(_, at)| at.space == space).map(|(_, at)| at.row).collect()
                    };
                    let parts = spaces.into_iter().map(|space| Part { space, rows: Rows::List(of(space)) });
                    self.arrange(parts.collect(), rest, page);
                }
            }
            if page.is_full() {
                return;
            }
        }
    }

    /// Arranges by numbers that order as far as they go, then by all criteria.
    fn select_by(&self, mut entries: Vec<(u128, Row)>, keys: &[Key<'v>], page: &mut Page) {
        let view = self.view;
        let compare = |a: &(u128, Row), b: &(u128, Row)| {
            a.0.cmp(&b.0).then_with(|| {
                let differ = keys.iter().map(|key| key.compare(view, a.1, b.1)).find(|order| order.is_ne());
                differ.unwrap_or_else(|| view.compare_ids(a.1, b.1))
            })
        };
        let end = page.skip.saturating_add(page.take);
        if end < entries.len() {
            entries.select_nth_unstable_by(end, compare);
            entries.truncate(end);
        }
        if page.skip > 0 && page.skip < entries.len() {
            entries.select_nth_unstable_by(page.skip, compare);
            entries.drain(..page.skip);
            page.skip = 0;
        }
        entries.sort_unstable_by(compare);
        entries.into_iter().for_each(|(_, row)| page.push(row));
    }

    fn by_id(&self, part: Part<'v>, page: &mut Page) {
        let ids = self.view.spaces.get(part.space);
        let count = part.rows.count(ids);
        if page.is_full() || count <= page.skip {
            page.skip = page.skip.saturating_sub(count);
            return;
        }
        let skip = page.skip.min(SKIP_FEW);
        let walked = (skip + page.take).saturating_mul(ids.live_count) / count;
        let build_ns = if self.view.id_built(part.space) { 0 } else { ids.live_count / BUILD_ROWS_PER_NS };
        let walk_ns = walked.min(ids.live_count) * 3 + ids.live_count / 100 + build_ns;
        if count <= SELECT_FEW || prefer_first(count * 40, walk_ns) {
            return self.select(vec![part], &[], page);
        }
        let Some(order) = self.view.id_order(part.space) else { return };
        self.tally.index("order", ids.name.as_str());
        let walk = Walk { space: part.space, set: self.set(&part), order };
        let place = |row: u32| ids.live.contains(row).then(|| order.place(|other| ids.id(other) < ids.id(row)));
        self.walk_forward(&walk, &place, page);
    }

    fn set<'a>(&self, part: &'a Part<'v>) -> Option<Cow<'a, Bits>>
    where
        'v: 'a,
    {
        match &part.rows {
            Rows::All => None,
            rows => Some(rows.to_bits(self.view.spaces.get(part.space))),
        }
    }

    fn counts(&self, walk: &Walk<'_>, place: &dyn Fn(u32) -> Option<Place>) -> Counts {
        match &walk.set {
            None => Counts::Every,
            Some(set) => Counts::Some(walk.order.count(self.filter_key, set, place)),
        }
    }

    /// Puts the matches on the page in the order of the index.
    fn walk_forward(&self, walk: &Walk<'_>, place: &dyn Fn(u32) -> Option<Place>, page: &mut Page) {
        let order = walk.order;
        let mut from = Place { block: 0, at: 0 };
        if page.skip > SKIP_FEW {
            let counts = self.counts(walk, place);
            let total = counts.total(order);
            if total <= page.skip {
                page.skip -= total;
                return;
            }
            from = counts.select(order, page.skip);
            page.skip = 0;
        }
        let mut walked = 0;
        for row in order.rows(from, order.end()) {
            walked += 1;
            if walk.is_match(row) {
                page.push(Row { space: walk.space, row });
                if page.is_full() {
                    break;
                }
            }
        }
        self.tally.examine(walked);
    }

    /// Arranges the matches in which a criterion on the resource itself is set.
    fn walk_own(&self, part: &Part<'v>, key: &Key<'v>, rest: &[Key<'v>], page: &mut Page) {
        let (leaf, spaces) = (key.column.leaf, &self.view.spaces);
        let order = leaf.order(part.space, spaces);
        self.tally.index("order", key.text);
        let walk = Walk { space: part.space, set: self.set(part), order };
        let less = |other: u32, row: u32| leaf.compare_rows(other, row, part.space, spaces).is_lt();
        let place = |row: u32| {
            let is_in = spaces.get(part.space).live.contains(row) && leaf.is_set(row);
            is_in.then(|| order.place(|other| less(other, row)))
        };
        // Ties are in the order of ids in the index.
        if rest.is_empty() && !key.descending {
            return self.walk_forward(&walk, &place, page);
        }
        let runs = Runs { leaf, spaces, walk: &walk, descending: key.descending };
        let counts = (page.skip > SKIP_FEW).then(|| self.counts(&walk, &place));
        let Some(mut from) = runs.begin(counts.as_ref(), page) else { return };
        let (mut run, mut hits): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
        let mut walked = 0;
        'walk: loop {
            let slices: Box<dyn Iterator<Item = &[u32]>> = if key.descending {
                Box::new(order.slices_back(from))
            } else {
                Box::new(order.slices(from, order.end()))
            };
            for slice in slices {
                walked += slice.len();
                hits.clear();
                hits.extend(slice.iter().copied().filter(|&row| walk.is_match(row)));
                if key.descending {
                    hits.reverse();
                }
                for &row in &hits {
                    if run.last().is_some_and(|&last| !leaf.is_same(last, row, spaces)) {
                        self.finish_run(&mut run, part.space, rest, page);
                        if page.is_full() {
                            break 'walk;
                        }
                    }
                    run.push(row);
                    if key.descending && rest.is_empty() && run.len() > RUN_LONG {
                        // The beginning of the run comes first, and the run may be most of the index.
                        run.clear();
                        from = runs.push_run(row, counts.as_ref(), page);
                        if page.is_full() {
                            break 'walk;
                        }
                        continue 'walk;
                    }
                }
            }
            self.finish_run(&mut run, part.space, rest, page);
            break;
        }
        self.tally.examine(walked);
    }

    /// Arranges matches that are equal so far.
    fn finish_run(&self, run: &mut Vec<u32>, space: u32, rest: &[Key<'v>], page: &mut Page) {
        if run.len() <= page.skip {
            page.skip -= run.len();
        } else if let [only] = run[..] {
            page.push(Row { space, row: only });
        } else {
            self.arrange(vec![Part { space, rows: Rows::List(std::mem::take(run)) }], rest, page);
        }
        run.clear();
    }

    /// Arranges the matches in which a criterion on a related resource is set.
    fn walk_related(&self, part: &Part<'v>, key: &Key<'v>, rest: &[Key<'v>], page: &mut Page) {
        let view = self.view;
        let leaf = key.column.leaf;
        let order = leaf.order(key.far_space, &view.spaces);
        self.tally.index("order", key.text);
        let ids = view.spaces.get(part.space);
        let count = part.rows.count(ids);
        // Far rows in the order of the criterion, those with the same value together.
        let end = order.end();
        let far_rows: Box<dyn Iterator<Item = u32>> = if key.descending {
            Box::new(order.rows_back(end))
        } else {
            Box::new(order.rows(Place { block: 0, at: 0 }, end))
        };
        let walked = page.skip.saturating_add(page.take).saturating_mul(ids.live_count) / count.max(1);
        if prefer_first(count + order.len(), walked) {
            return self.bucket_related(part, key, rest, far_rows, page);
        }
        let set = part.rows.to_bits(ids);
        let mut run: Vec<u32> = Vec::new();
        let mut last = None;
        for far in far_rows {
            if last.is_some_and(|last| !leaf.is_same(last, far, &view.spaces)) {
                self.finish_run(&mut run, part.space, rest, page);
                if page.is_full() {
                    return;
                }
            }
            last = Some(far);
            self.referrers(key, key.hops.len(), far, &mut |row| {
                if set.contains(row) {
                    run.push(row);
                }
            });
        }
        self.finish_run(&mut run, part.space, rest, page);
    }

    /// Calls back for the rows of the key's type from which the first `hops` hops lead to the row.
    fn referrers(&self, key: &Key<'v>, hops: usize, row: u32, each: &mut dyn FnMut(u32)) {
        let Some((column, to)) = hops.checked_sub(1).and_then(|hop| key.hops.get(hop)) else {
            self.tally.examine(1);
            return each(row);
        };
        let from = hops.checked_sub(2).and_then(|hop| key.hops.get(hop)).map_or(key.space, |hop| hop.1);
        self.view.referrers(column, from, Row { space: *to, row }, &mut |row| self.referrers(key, hops - 1, row, each));
    }

    /// The same for deep pages: counts the matches of each far value first, and arranges only those that reach the page.
    fn bucket_related(
        &self,
        part: &Part<'v>,
        key: &Key<'v>,
        rest: &[Key<'v>],
        far_rows: Box<dyn Iterator<Item = u32> + '_>,
        page: &mut Page,
    ) {
        let view = self.view;
        let ids = view.spaces.get(part.space);
        let mut buckets = vec![0u32; view.spaces.get(key.far_space).len() as usize];
        let (mut bucket, mut last) = (0, None);
        for far in far_rows {
            if last.is_some_and(|last| !key.column.leaf.is_same(last, far, &view.spaces)) {
                bucket += 1;
            }
            last = Some(far);
            buckets[far as usize] = bucket;
        }
        let mut counts = vec![0usize; bucket as usize + 1];
        self.tally.examine(part.rows.count(ids));
        part.rows.each(ids, |row| {
            if let Some(far) = key.far(view, row) {
                counts[buckets[far as usize] as usize] += 1;
            }
        });
        let mut first = 0;
        while first < counts.len() && counts[first] <= page.skip {
            page.skip -= counts[first];
            first += 1;
        }
        let (mut end, mut reached) = (first, 0);
        while end < counts.len() && reached < page.skip.saturating_add(page.take) {
            reached += counts[end];
            end += 1;
        }
        let mut found: Vec<(u32, u32)> = Vec::with_capacity(reached);
        part.rows.each(ids, |row| {
            if let Some(far) = key.far(view, row) {
                let bucket = buckets[far as usize];
                if (first..end).contains(&(bucket as usize)) {
                    found.push((bucket, row));
                }
            }
        });
        found.sort_unstable();
        let mut run = Vec::new();
        for (i, (bucket, row)) in found.iter().enumerate() {
            run.push(*row);
            if found.get(i + 1).is_none_or(|next| next.0 != *bucket) {
                self.finish_run(&mut run, part.space, rest, page);
            }
        }
    }
}
