//! The text form of queries, for people.
//!
//! ```text
//! query     = type *( "," type ) [ "where" any ] [ "select" path *( "," path ) ]
//!             [ "order" "by" path [ "asc" | "desc" ] *( "," path [ "asc" | "desc" ] ) ]
//!             [ "limit" number ] [ "offset" number ] [ "count" ]
//! any       = all *( "or" all )
//! all       = one *( "and" one )
//! one       = "(" any ")" | "id" "is" value | path operator value | path "in" "(" value *( "," value ) ")"
//! operator  = "=" | "!=" | "<>" | ">" | ">=" | "<" | "<=" | "starts" "with" | "ends" "with" | "contains"
//! value     = "text" | 'text' | number | "true" | "false" | Type:id | word
//! path      = Model/name->Model/name | name.name | name/name->name
//! ```
//!
//! Words of the language are taken in any case. The parts behind `where` come in any order, each once.
//!
//! A path may leave out models: its names are then looked up in the type that is named first, and a dot or a slash goes on
//! into a structure or, behind an identifier that can point to one type only, to that resource: `host.cluster.name` is
//! `VirtualMachine/host->HostSystem/cluster->ClusterComputeResource/name`. An arrow goes to the resource explicitly.
//!
//! A value is read as the property needs it: a number for numbers, text for everything else, so `power_state = POWERED_ON`
//! needs no quotes. An identifier is compared with `Type:id`, or with the id alone, whatever its type. `id is vm-42` is the
//! resource of that id.

use lockstep_model::{Kind, Registry, ResourceId, TypeDef};

use crate::shorthand::complete;
use crate::spec::{
    Comparable, CompositeOperator, FilterSpec, Operator, PropertyFilter, QuerySpec, SortDirection, SortSpec,
};

/// Parentheses nest no deeper than this: the filter's own limit is below.
const DEPTH_MAX: usize = 64;

/// Why a text is no query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} at column {column}\n{text}\n{caret}")]
pub struct TextError {
    /// What is wrong.
    pub message: String,
    /// Where, in characters from 1.
    pub column: usize,
    /// The line in question.
    text: String,
    /// A caret below that place.
    caret: String,
}

/// Reads the text form of a query. Names are looked up in the registry to complete paths; everything else is checked when
/// the query is compiled.
///
/// # Errors
/// [`TextError`], with the place.
pub fn parse_text(text: &str, registry: &Registry) -> Result<QuerySpec, TextError> {
    let tokens = tokens(text)?;
    let mut parser = Parser { text, tokens, at: 0, registry, base: None, depth: 0 };
    parser.query()
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// A name, path, number or bare value.
    Word(String),
    Quoted(String),
    Symbol(&'static str),
    End,
}

struct Parser<'a> {
    text: &'a str,
    /// Each with the byte it begins at.
    tokens: Vec<(usize, Token)>,
    at: usize,
    registry: &'a Registry,
    base: Option<&'a TypeDef>,
    depth: usize,
}

fn error(text: &str, byte: usize, message: impl Into<String>) -> TextError {
    let start = text[..byte].rfind('\n').map_or(0, |at| at + 1);
    let line = text[start..].lines().next().unwrap_or_default();
    let before = text[start..byte].chars().count();
    TextError {
        message: message.into(),
        column: text[..byte].chars().count() + 1,
        text: line.to_owned(),
        caret: format!("{}^", " ".repeat(before)),
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '.' | '/' | '-' | ':' | '@' | '+' | '%' | '#' | '*')
}

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, TextError> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        if c.is_whitespace() {
            at += c.len_utf8();
            continue;
        }
        let symbol = ["!=", "<>", ">=", "<=", "=", ">", "<", "(", ")", ","].into_iter().find(|s| rest.starts_with(s));
        let start = at;
        if let Some(symbol) = symbol {
            out.push((start, Token::Symbol(symbol)));
            at += symbol.len();
        } else if c == '"' || c == '\'' {
            let (value, len) = quoted(rest).ok_or_else(|| error(text, start, "a text without its closing quote"))?;
            out.push((start, Token::Quoted(value)));
            at += len;
        } else if is_word(c) {
            // An arrow belongs to a path; a sign of comparison behind a dash does not.
            let mut len = 0;
            let mut chars = rest.char_indices().peekable();
            while let Some((i, c)) = chars.next() {
                if c == '-' && chars.peek().is_some_and(|(_, next)| *next == '>') {
                    chars.next();
                    len = i + 2;
                } else if is_word(c) {
                    len = i + c.len_utf8();
                } else {
                    break;
                }
            }
            out.push((start, Token::Word(rest[..len].to_owned())));
            at += len;
        } else {
            return Err(error(text, start, format!("{c:?} has no meaning here; put text into quotes")));
        }
    }
    out.push((text.len(), Token::End));
    Ok(out)
}

/// The text between quotes, and how many bytes it takes with them. A backslash keeps the next character's meaning off; `\n`
/// and `\t` are what they are elsewhere.
fn quoted(text: &str) -> Option<(String, usize)> {
    let mut chars = text.char_indices();
    let (_, quote) = chars.next()?;
    let mut out = String::new();
    while let Some((i, c)) = chars.next() {
        if c == quote {
            return Some((out, i + 1));
        }
        out.push(match c {
            '\\' => match chars.next()?.1 {
                'n' => '\n',
                't' => '\t',
                other => other,
            },
            c => c,
        });
    }
    None
}

impl<'a> Parser<'a> {
    fn here(&self) -> &(usize, Token) {
        // The last token is the end, and nothing goes beyond it.
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T, TextError> {
        Err(error(self.text, self.here().0, message))
    }

    fn next(&mut self) -> (usize, Token) {
        let token = self.here().clone();
        self.at += 1;
        token
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(&self.here().1, Token::Word(w) if w.eq_ignore_ascii_case(word))
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        self.at += usize::from(found);
        found
    }

    fn take_symbol(&mut self, symbol: &str) -> bool {
        let found = matches!(&self.here().1, Token::Symbol(s) if *s == symbol);
        self.at += usize::from(found);
        found
    }

    fn query(&mut self) -> Result<QuerySpec, TextError> {
        let mut types = Vec::new();
        loop {
            let (at, token) = self.next();
            let Token::Word(name) = token else { return Err(error(self.text, at, "expected a resource type")) };
            let Some(def) = self.registry.type_def(&name) else {
                return Err(error(self.text, at, format!("no resource type {name:?}")));
            };
            self.base.get_or_insert(def);
            types.push(FilterSpec::Type(name));
            if !self.take_symbol(",") {
                break;
            }
        }
        let all_of_type = composite(CompositeOperator::Union, types);
        let mut spec = QuerySpec {
            resource_filter: all_of_type,
            property_spec: Vec::new(),
            sort_criteria: Vec::new(),
            offset: 0,
            limit: None,
            compute_total_item_count: false,
        };
        let mut seen: Vec<&str> = Vec::new();
        loop {
            let parts = ["where", "select", "order", "limit", "offset", "count"];
            let Some(part) = parts.into_iter().find(|part| self.is_word(part)) else {
                if self.here().1 == Token::End {
                    return Ok(spec);
                }
                return self.fail("expected where, select, order by, limit, offset, count or the end");
            };
            if seen.contains(&part) {
                return self.fail(format!("{part} a second time"));
            }
            seen.push(part);
            self.at += 1;
            match part {
                "where" => {
                    let filter = self.any()?;
                    spec.resource_filter = composite(CompositeOperator::Intersect, vec![spec.resource_filter, filter]);
                }
                "select" => {
                    spec.property_spec.push(self.path()?.0);
                    while self.take_symbol(",") {
                        spec.property_spec.push(self.path()?.0);
                    }
                }
                "order" => {
                    if !self.take_word("by") {
                        return self.fail("expected by");
                    }
                    loop {
                        let (property, _) = self.path()?;
                        let descending = self.take_word("desc") || self.take_word("descending");
                        let direction = if descending { SortDirection::Descending } else { SortDirection::Ascending };
                        let _ = !descending && (self.take_word("asc") || self.take_word("ascending"));
                        spec.sort_criteria.push(SortSpec { property, direction });
                        if !self.take_symbol(",") {
                            break;
                        }
                    }
                }
                "limit" => spec.limit = Some(self.number()?),
                "offset" => spec.offset = self.number()?,
                _ => spec.compute_total_item_count = true,
            }
        }
    }

    fn number(&mut self) -> Result<i64, TextError> {
        match self.next() {
            (at, Token::Word(word)) => word.parse().map_err(|_| error(self.text, at, "expected a whole number")),
            (at, _) => Err(error(self.text, at, "expected a whole number")),
        }
    }

    fn any(&mut self) -> Result<FilterSpec, TextError> {
        let mut filters = vec![self.all()?];
        while self.take_word("or") {
            filters.push(self.all()?);
        }
        Ok(composite(CompositeOperator::Union, filters))
    }

    fn all(&mut self) -> Result<FilterSpec, TextError> {
        let mut filters = vec![self.one()?];
        while self.take_word("and") {
            filters.push(self.one()?);
        }
        Ok(composite(CompositeOperator::Intersect, filters))
    }

    fn one(&mut self) -> Result<FilterSpec, TextError> {
        if self.take_symbol("(") {
            self.depth += 1;
            if self.depth > DEPTH_MAX {
                return self.fail(format!("parentheses nest deeper than {DEPTH_MAX} levels"));
            }
            let filter = self.any()?;
            self.depth -= 1;
            if !self.take_symbol(")") {
                return self.fail("expected ), and or or");
            }
            return Ok(filter);
        }
        let is_id = self.is_word("id")
            && matches!(self.tokens.get(self.at + 1), Some((_, Token::Word(w))) if w.eq_ignore_ascii_case("is"));
        if is_id {
            self.at += 2;
            let (at, value) = self.value()?;
            let base = self.base.map_or("", |def| def.name.as_str());
            return match value {
                Literal::Word(text) | Literal::Quoted(text) => {
                    Ok(FilterSpec::Id(self.typed_id(&text).unwrap_or_else(|| ResourceId::new(base, text))))
                }
            }
            .and_then(|filter| {
                if matches!(&filter, FilterSpec::Id(id) if id.id.is_empty()) {
                    Err(error(self.text, at, "the id is empty"))
                } else {
                    Ok(filter)
                }
            });
        }
        let (property, kind) = self.path()?;
        if self.take_word("in") {
            if !self.take_symbol("(") {
                return self.fail("expected (");
            }
            let mut filters = Vec::new();
            loop {
                filters.push(self.comparison(&property, &kind, Operator::Equal)?);
                if !self.take_symbol(",") {
                    break;
                }
            }
            if !self.take_symbol(")") {
                return self.fail("expected , or )");
            }
            return Ok(composite(CompositeOperator::Union, filters));
        }
        let operator = self.operator()?;
        self.comparison(&property, &kind, operator)
    }

    fn operator(&mut self) -> Result<Operator, TextError> {
        let (at, token) = self.next();
        Ok(match &token {
            Token::Symbol("=") => Operator::Equal,
            Token::Symbol("!=" | "<>") => Operator::NotEqual,
            Token::Symbol(">") => Operator::Greater,
            Token::Symbol(">=") => Operator::GreaterOrEqual,
            Token::Symbol("<") => Operator::Less,
            Token::Symbol("<=") => Operator::LessOrEqual,
            Token::Word(w) if w.eq_ignore_ascii_case("contains") => Operator::Contains,
            Token::Word(w) if w.eq_ignore_ascii_case("starts") && self.take_word("with") => Operator::StartsWith,
            Token::Word(w) if w.eq_ignore_ascii_case("ends") && self.take_word("with") => Operator::EndsWith,
            _ => {
                let message = "expected an operator: =, !=, >, >=, <, <=, starts with, ends with, contains or in";
                return Err(error(self.text, at, message));
            }
        })
    }

    fn comparison(&mut self, property: &str, kind: &Kind, operator: Operator) -> Result<FilterSpec, TextError> {
        let (at, literal) = self.value()?;
        let comparable = match (kind, literal) {
            (Kind::Long | Kind::Double, Literal::Word(word)) => match (word.parse::<i64>(), word.parse::<f64>()) {
                (Ok(number), _) => Comparable::Long(number),
                (_, Ok(number)) if number.is_finite() => Comparable::Double(number),
                _ => return Err(error(self.text, at, format!("{property} is a number, {word:?} is none"))),
            },
            (Kind::Boolean, Literal::Word(word)) if word == "true" || word == "false" => {
                Comparable::Boolean(word == "true")
            }
            (Kind::Id { .. }, Literal::Word(word))
                if !matches!(operator, Operator::StartsWith | Operator::EndsWith | Operator::Contains) =>
            {
                self.typed_id(&word).map_or(Comparable::String(word), Comparable::Id)
            }
            (_, Literal::Word(text) | Literal::Quoted(text)) => Comparable::String(text),
        };
        Ok(FilterSpec::Property(PropertyFilter { property: property.to_owned(), operator, comparable }))
    }

    fn value(&mut self) -> Result<(usize, Literal), TextError> {
        match self.next() {
            (at, Token::Word(word)) => Ok((at, Literal::Word(word))),
            (at, Token::Quoted(text)) => Ok((at, Literal::Quoted(text))),
            (at, _) => Err(error(self.text, at, "expected a value")),
        }
    }

    /// `Type:id`, if that is a type.
    fn typed_id(&self, word: &str) -> Option<ResourceId> {
        let (name, id) = word.split_once(':')?;
        let def = self.registry.type_def(name)?;
        Some(ResourceId::new(def.name.clone(), id))
    }

    /// A path in full, and the kind of what it ends at.
    fn path(&mut self) -> Result<(String, Kind), TextError> {
        let (at, token) = self.next();
        let Token::Word(word) = token else { return Err(error(self.text, at, "expected a property")) };
        complete(&word, self.base, self.registry).map_err(|message| error(self.text, at, message))
    }
}

enum Literal {
    Word(String),
    Quoted(String),
}

fn composite(operator: CompositeOperator, mut filters: Vec<FilterSpec>) -> FilterSpec {
    if filters.len() == 1 { filters.swap_remove(0) } else { FilterSpec::Composite { operator, filters } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shorthand::tests::registry;

    fn property(property: &str, operator: Operator, comparable: Comparable) -> FilterSpec {
        FilterSpec::Property(PropertyFilter { property: property.to_owned(), operator, comparable })
    }

    fn both(first: FilterSpec, second: FilterSpec) -> FilterSpec {
        composite(CompositeOperator::Intersect, vec![first, second])
    }

    /// The filter behind `where`.
    fn filter(text: &str) -> FilterSpec {
        let spec = parse_text(&format!("VirtualMachine where {text}"), &registry()).unwrap_or_else(|e| panic!("{e}"));
        match spec.resource_filter {
            FilterSpec::Composite { mut filters, .. } => filters.remove(1),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_text_form_says_all_that_a_spec_can() {
        let text = r#"VirtualMachine where power_state = "POWERED_ON" and host->HostSystem/name starts with 'esx-'
            and (cpu_count >= 8 or tags = Tag:urn:1:GLOBAL) select name, host.cluster.name, guest/tools/version
            ORDER BY host.name desc, name limit 20 offset 40 count"#;
        let spec = parse_text(text, &registry()).unwrap_or_else(|e| panic!("{e}"));
        let string = |s: &str| Comparable::String(s.to_owned());
        let powered = property("VirtualMachine/power_state", Operator::Equal, string("POWERED_ON"));
        let on_esx = property("VirtualMachine/host->HostSystem/name", Operator::StartsWith, string("esx-"));
        let large = property("VirtualMachine/cpu_count", Operator::GreaterOrEqual, Comparable::Long(8));
        let tagged =
            property("VirtualMachine/tags", Operator::Equal, Comparable::Id(ResourceId::new("Tag", "urn:1:GLOBAL")));
        let either = composite(CompositeOperator::Union, vec![large, tagged]);
        let conditions = composite(CompositeOperator::Intersect, vec![powered, on_esx, either]);
        assert_eq!(spec.resource_filter, both(FilterSpec::Type("VirtualMachine".to_owned()), conditions));
        let cluster = "VirtualMachine/host->HostSystem/cluster->ClusterComputeResource/name";
        assert_eq!(spec.property_spec, ["VirtualMachine/name", cluster, "VirtualMachine/guest/tools/version"]);
        let sort = |property: &str, direction| SortSpec { property: property.to_owned(), direction };
        let by_host = sort("VirtualMachine/host->HostSystem/name", SortDirection::Descending);
        assert_eq!(spec.sort_criteria, [by_host, sort("VirtualMachine/name", SortDirection::Ascending)]);
        assert_eq!((spec.offset, spec.limit, spec.compute_total_item_count), (40, Some(20), true));
        assert!(crate::Query::compile(&spec, &registry(), &crate::Limits::default()).is_ok());
    }

    #[test]
    fn values_are_read_as_the_property_needs_them() {
        let name = |comparable| property("VirtualMachine/name", Operator::Equal, comparable);
        assert_eq!(filter("name = 42"), name(Comparable::String("42".to_owned())));
        assert_eq!(filter(r#"name = "a\"b\n""#), name(Comparable::String("a\"b\n".to_owned())));
        assert_eq!(
            filter("template = true"),
            property("VirtualMachine/template", Operator::Equal, Comparable::Boolean(true))
        );
        assert_eq!(
            filter("cpu_count < 2.5"),
            property("VirtualMachine/cpu_count", Operator::Less, Comparable::Double(2.5))
        );
        assert_eq!(
            filter("cpu_count > -1"),
            property("VirtualMachine/cpu_count", Operator::Greater, Comparable::Long(-1))
        );
        assert_eq!(
            filter("host != host-12"),
            property("VirtualMachine/host", Operator::NotEqual, Comparable::String("host-12".to_owned()))
        );
        assert_eq!(filter("id is vm-4"), FilterSpec::Id(ResourceId::new("VirtualMachine", "vm-4")));
        assert_eq!(filter("id is HostSystem:h"), FilterSpec::Id(ResourceId::new("HostSystem", "h")));
        let two = vec![name(Comparable::String("a".to_owned())), name(Comparable::String("b".to_owned()))];
        assert_eq!(filter("name in (a, 'b')"), composite(CompositeOperator::Union, two));
    }

    #[test]
    fn errors_point_at_the_place() {
        let check = |text: &str, column: usize, message: &str| match parse_text(text, &registry()) {
            Err(error) => assert_eq!((error.column, &*error.message), (column, message), "{error}"),
            Ok(spec) => panic!("{spec:?}"),
        };
        check("", 1, "expected a resource type");
        check("Virtual", 1, "no resource type \"Virtual\"");
        check("VirtualMachine where", 21, "expected a property");
        check("VirtualMachine where nam = 1", 22, "VirtualMachine has no property nam");
        check(
            "VirtualMachine where name like x",
            27,
            "expected an operator: =, !=, >, >=, <, <=, starts with, ends with, contains or in",
        );
        check("VirtualMachine where name = \"x", 29, "a text without its closing quote");
        check("VirtualMachine where cpu_count = many", 34, "VirtualMachine/cpu_count is a number, \"many\" is none");
        check("VirtualMachine where (name = x", 31, "expected ), and or or");
        check("VirtualMachine limit ten", 22, "expected a whole number");
        check("VirtualMachine limit 1 limit 2", 24, "limit a second time");
        check(
            "VirtualMachine where name = x y",
            31,
            "expected where, select, order by, limit, offset, count or the end",
        );
        check("VirtualMachine select name;", 27, "';' has no meaning here; put text into quotes");
        check(
            "com.acme.Person select friend.name",
            24,
            "com.acme.Person/friend can point to several types: write friend->Model/name",
        );
        let deep = format!("VirtualMachine where {}name = x{}", "(".repeat(100), ")".repeat(100));
        check(&deep, 87, "parentheses nest deeper than 64 levels");
        let error = parse_text("VirtualMachine\n  where nam = 1", &registry()).unwrap_err();
        assert_eq!(error.to_string(), "VirtualMachine has no property nam at column 24\n  where nam = 1\n        ^");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC*|(VirtualMachine|where|and|or|[(),=<>!\"' ]|name|->|host|in|limit|[0-9é.-]|order by|id is|starts with)*") {
            let _ = parse_text(&text, &registry());
            let _ = parse_text(&format!("VirtualMachine where {text}"), &registry());
        }
    }
}
