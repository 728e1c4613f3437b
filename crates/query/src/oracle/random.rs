//! Values, documents and queries that are enough like random.

use lockstep_model::{Document, Registry, ResourceId};

use super::{Of, PATHS};
use crate::{Comparable, CompositeOperator, FilterSpec, Operator, PropertyFilter, QuerySpec, SortDirection, SortSpec};

pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    pub(super) fn text(&mut self) -> String {
        if self.one_in(3) {
            return self
                .pick(&[
                    "",
                    "a",
                    "A",
                    "ab",
                    "Ab-1",
                    "ß",
                    "GROẞ",
                    "groß",
                    "web-01",
                    "WEB-02",
                    "a prefix longer than a key 1",
                    "a prefix longer than a key 2",
                ])
                .to_owned();
        }
        let len = 1 + self.below(3);
        (0..len).map(|_| self.pick(&['a', 'b', 'A', '1', 'é'])).collect()
    }

    pub(super) fn long(&mut self) -> i64 {
        match self.below(8) {
            0 => self.pick(&[i64::MIN, i64::MAX, 9_007_199_254_740_993, 300, -70_000, 5_000_000_000]),
            _ => self.below(5) as i64 - 1,
        }
    }

    pub(super) fn double(&mut self) -> f64 {
        match self.below(8) {
            0 => self.pick(&[-0.0, 9_007_199_254_740_992.0, 1e300, -1e-300, 9.3e18]),
            _ => (self.below(9) as f64 - 3.0) / 2.0,
        }
    }

    pub(super) fn time(&mut self) -> String {
        self.pick(&[
            "2024-05-01T10:00:00Z",
            "2024-05-01T12:00:00+02:00",
            "2024-05-01T10:00:00.5Z",
            "2024-05-01T10:00:00.250Z",
            "1969-12-31T23:59:59Z",
            "2024-05-02T00:00:00Z",
            "9999-12-30T00:00:00Z",
        ])
        .to_owned()
    }

    /// Few ids, so that references meet resources, and sometimes miss them.
    pub(super) fn id_of(&mut self, of: &str) -> ResourceId {
        let n = self.below(if of == "A" { 60 } else { 14 });
        ResourceId::new(of, format!("{}{n}", of.to_lowercase()))
    }

    pub(super) fn json_id(&mut self, of: &str) -> String {
        serde_json::to_string(&self.id_of(of)).unwrap()
    }

    pub(super) fn document(&mut self, of: &str, registry: &Registry) -> Document {
        let mut fields: Vec<String> = Vec::new();
        let properties: &[&str] = match of {
            "A" => {
                &["name", "n", "d", "flag", "when", "b", "any", "bs", "tags", "s", "items", "extra", "parent", "owner"]
            }
            "B" => &["name", "w", "c", "as"],
            _ => &["name", "when"],
        };
        for name in properties {
            if !self.one_in(4) {
                fields.push(format!("{name:?}:{}", self.json(of, name)));
            }
        }
        registry.type_def(of).unwrap().read_document(&format!("{{{}}}", fields.join(","))).unwrap()
    }

    pub(super) fn json(&mut self, of: &str, name: &str) -> String {
        let list = |random: &mut Self, f: &dyn Fn(&mut Self) -> String| {
            let max = if random.one_in(9) { 9 } else { 4 };
            let n = random.below(max);
            format!("[{}]", (0..n).map(|_| f(random)).collect::<Vec<_>>().join(","))
        };
        match (of, name) {
            (_, "name" | "extra") => format!("{:?}", self.text()),
            (_, "n" | "w") => self.long().to_string(),
            (_, "d") => format!("{:?}", self.double()),
            (_, "flag") => self.one_in(2).to_string(),
            (_, "when") => format!("{:?}", self.time()),
            (_, "b" | "owner") => self.json_id("B"),
            (_, "c") => self.json_id("C"),
            (_, "parent") => self.json_id("A"),
            (_, "any") => {
                let of = self.pick(&["A", "B", "C", "Z"]);
                self.json_id(of)
            }
            (_, "bs") => list(self, &|r| r.json_id("B")),
            (_, "as") => list(self, &|r| r.json_id("A")),
            (_, "tags") => list(self, &|r| format!("{:?}", r.text())),
            (_, "s") => {
                let (x, t, y) = (self.long(), self.text(), self.double());
                match self.below(4) {
                    0 => format!(r#"{{"x":{x}}}"#),
                    1 => format!(r#"{{"t":{t:?},"deep":{{"y":{y:?}}}}}"#),
                    2 => r#"{"deep":{}}"#.to_owned(),
                    _ => format!(r#"{{"x":{x},"t":{t:?},"deep":{{"y":{y:?}}}}}"#),
                }
            }
            _ => list(self, &|r| {
                let (k, v, id, subs) = (r.text(), r.long(), r.json_id("C"), r.text());
                match r.below(4) {
                    0 => "{}".to_owned(),
                    1 => format!(r#"{{"k":{k:?},"subs":[{subs:?},"x"]}}"#),
                    2 => format!(r#"{{"v":{v},"ref":{id},"subs":[]}}"#),
                    _ => format!(r#"{{"k":{k:?},"v":{v},"ref":{id}}}"#),
                }
            }),
        }
    }

    pub(super) fn filter(&mut self, depth: usize) -> FilterSpec {
        match self.below(if depth > 2 { 6 } else { 9 }) {
            0 => FilterSpec::Type(self.pick(&["A", "A", "B", "C"]).to_owned()),
            1 => {
                let of = self.pick(&["A", "B", "C"]);
                FilterSpec::Id(self.id_of(of))
            }
            2..=5 => self.property(),
            _ => {
                let operator =
                    self.pick(&[CompositeOperator::Intersect, CompositeOperator::Intersect, CompositeOperator::Union]);
                let n = 1 + self.below(3);
                FilterSpec::Composite { operator, filters: (0..n).map(|_| self.filter(depth + 1)).collect() }
            }
        }
    }

    pub(super) fn property(&mut self) -> FilterSpec {
        use Operator::{Contains, EndsWith, Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual, StartsWith};
        loop {
            // Half of them on few paths, so that several ranges of one property meet.
            let (path, of, _) = if self.one_in(2) { self.pick(&PATHS[..3]) } else { self.pick(&PATHS) };
            let pieces = [StartsWith, EndsWith, Contains];
            let ordered = [Equal, NotEqual, Greater, GreaterOrEqual, Less, LessOrEqual];
            let same = [Equal, NotEqual];
            let (operator, comparable) = match of {
                Of::Text if self.one_in(2) => (self.pick(&pieces), Comparable::String(self.text())),
                Of::Text => (self.pick(&ordered), Comparable::String(self.text())),
                Of::Long | Of::Double if self.one_in(2) => (self.pick(&ordered), Comparable::Double(self.double())),
                Of::Long | Of::Double => (self.pick(&ordered), Comparable::Long(self.long())),
                Of::Boolean if self.one_in(2) => (self.pick(&same), Comparable::String(self.one_in(2).to_string())),
                Of::Boolean => (self.pick(&same), Comparable::Boolean(self.one_in(2))),
                Of::Time if self.one_in(4) => {
                    (self.pick(&pieces), Comparable::String(self.pick(&["2024-05", "Z", "t10:"]).to_owned()))
                }
                Of::Time => (self.pick(&ordered), Comparable::String(self.time())),
                Of::Id => {
                    let to = match path {
                        "ma/any" => self.pick(&["A", "B", "C", "Z"]),
                        "ma/items/ref" => "C",
                        _ => "B",
                    };
                    let id = self.id_of(to);
                    match self.below(4) {
                        0 => (self.pick(&same), Comparable::String(id.id.into())),
                        1 => (self.pick(&pieces), Comparable::String(self.pick(&["1", "B", "c1"]).to_owned())),
                        _ => (self.pick(&same), Comparable::Id(id)),
                    }
                }
                Of::Struct => continue,
            };
            return FilterSpec::Property(PropertyFilter { property: path.to_owned(), operator, comparable });
        }
    }

    pub(super) fn spec(&mut self) -> QuerySpec {
        let paths: Vec<&str> = PATHS.iter().map(|p| p.0).collect();
        let sortable: Vec<&str> = PATHS.iter().filter(|p| !p.2 && p.1 != Of::Struct).map(|p| p.0).collect();
        let sort = (0..self.pick(&[0, 1, 1, 2, 3])).map(|_| SortSpec {
            property: self.pick(&sortable).to_owned(),
            direction: self.pick(&[SortDirection::Ascending, SortDirection::Descending]),
        });
        let sort_criteria = sort.collect();
        QuerySpec {
            resource_filter: if self.one_in(4) { FilterSpec::Type("A".to_owned()) } else { self.filter(0) },
            property_spec: (0..self.below(5)).map(|_| self.pick(&paths).to_owned()).collect(),
            sort_criteria,
            offset: self.pick(&[0, 0, 1, 3, 7, 20, 45]),
            limit: self.pick(&[None, Some(0), Some(1), Some(5), Some(1000)]),
            compute_total_item_count: self.one_in(2),
        }
    }
}
