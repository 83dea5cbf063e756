//! Reads a TOML document by its spans, so that one pass finds every fault and names each one's
//! line.
//!
//! serde would stop at the first fault. A [`Table`] remembers the fields that were asked for; what
//! is left at its end is unknown and a fault too.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One thing that is wrong with the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The line, counted from 1.
    pub line: usize,
    /// The field, as in `ccb[0].rtp_ports`; empty when the file is no TOML.
    pub field: String,
    /// The rule that it breaks.
    pub rule: String,
}

/// Everything that is wrong with one file, in the order of its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// The file as the user named it.
    pub file: String,
    /// At least one.
    pub faults: Vec<Fault>,
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, fault) in self.faults.iter().enumerate() {
            if place > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:{}: ", self.file, fault.line)?;
            if !fault.field.is_empty() {
                write!(f, "{}: ", fault.field)?;
            }
            f.write_str(&fault.rule)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Collects the faults of one document.
pub struct Report<'t> {
    text: &'t str,
    faults: RefCell<Vec<Fault>>,
}

impl<'t> Report<'t> {
    /// An empty report about `text`.
    pub fn new(text: &'t str) -> Self {
        Report { text, faults: RefCell::default() }
    }

    /// Adds a fault at the byte where `span` starts.
    pub fn fault(&self, span: &Range<usize>, field: impl Into<String>, rule: impl Into<String>) {
        let start = span.start.min(self.text.len());
        let line = 1 + self.text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count();
        let fault = Fault { line, field: field.into(), rule: rule.into() };
        self.faults.borrow_mut().push(fault);
    }

    /// The faults by line.
    pub fn finish(self) -> Vec<Fault> {
        let mut faults = self.faults.into_inner();
        faults.sort_by_key(|fault| fault.line);
        faults
    }
}

/// A name of a table, its text when it is one, and where the name stands.
pub type NamedText = (String, Option<String>, Range<usize>);

/// A field's value and where it stands.
pub struct Found<T> {
    /// The value.
    pub value: T,
    /// Its bytes in the document.
    pub span: Range<usize>,
    /// Its full name.
    pub field: String,
}

/// One table of the document, while it is read.
pub struct Table<'d, 't> {
    report: &'d Report<'t>,
    fields: &'d DeTable<'t>,
    span: Range<usize>,
    path: String,
    known: RefCell<Vec<&'static str>>,
}

impl<'d, 't> Table<'d, 't> {
    /// The table `fields` under the name `path` (empty for the document itself).
    pub fn new(
        report: &'d Report<'t>,
        fields: &'d DeTable<'t>,
        span: Range<usize>,
        path: String,
    ) -> Self {
        Table { report, fields, span, path, known: RefCell::default() }
    }

    /// Where the table stands.
    pub fn span(&self) -> &Range<usize> {
        &self.span
    }

    /// The full name of `field`.
    pub fn name(&self, field: &str) -> String {
        if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) }
    }

    /// True when the file has `field`.
    pub fn has(&self, field: &str) -> bool {
        self.fields.get(field).is_some()
    }

    /// Where `field` stands, or the table when the field is absent.
    pub fn field_span(&self, field: &str) -> Range<usize> {
        self.fields.get(field).map_or_else(|| self.span.clone(), Spanned::span)
    }

    /// What was found, `otherwise` when the file has no such field, and `None` when it is wrong.
    pub fn or<T>(&self, field: &str, found: Option<Found<T>>, otherwise: T) -> Option<T> {
        match found {
            Some(found) => Some(found.value),
            None if self.has(field) => None,
            None => Some(otherwise),
        }
    }

    /// The report that the table's faults go to.
    pub fn report(&self) -> &'d Report<'t> {
        self.report
    }

    /// A text, or `None` when it is absent or no text.
    pub fn text(&self, field: &'static str) -> Option<Found<String>> {
        let found = self.field(field)?;
        match found.get_ref().as_str() {
            Some(text) => Some(self.found(field, found, text.to_owned())),
            None => self.wrong(field, found, "must be a text in quotes"),
        }
    }

    /// A text that `parse` must accept; `rule` says what it accepts.
    pub fn parsed<T>(
        &self,
        field: &'static str,
        rule: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<Found<T>> {
        let text = self.text(field)?;
        match parse(&text.value) {
            Some(value) => Some(Found { value, span: text.span, field: text.field }),
            None => {
                self.report.fault(&text.span, text.field, format!("{:?} {rule}", text.value));
                None
            }
        }
    }

    /// [`Table::parsed`] for a field that must be there.
    pub fn required_parsed<T>(
        &self,
        field: &'static str,
        rule: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<Found<T>> {
        self.required(field)?;
        self.parsed(field, rule, parse)
    }

    /// `true` or `false`.
    pub fn flag(&self, field: &'static str) -> Option<Found<bool>> {
        let found = self.field(field)?;
        match found.get_ref().as_bool() {
            Some(value) => Some(self.found(field, found, value)),
            None => self.wrong(field, found, "must be true or false"),
        }
    }

    /// A whole number within `range`.
    pub fn number(&self, field: &'static str, range: Range<u64>) -> Option<Found<u64>> {
        let found = self.field(field)?;
        let number = whole_number(found.get_ref());
        match number.filter(|number| range.contains(number)) {
            Some(number) => Some(self.found(field, found, number)),
            None => {
                let rule = format!("must be a whole number in {}..={}", range.start, range.end - 1);
                self.wrong(field, found, &rule)
            }
        }
    }

    /// A list of whole numbers within `range`.
    pub fn numbers(&self, field: &'static str, range: Range<u64>) -> Option<Found<Vec<u64>>> {
        let found = self.field(field)?;
        let rule =
            format!("must be a list of whole numbers in {}..={}", range.start, range.end - 1);
        let Some(array) = found.get_ref().as_array() else {
            return self.wrong(field, found, &rule);
        };
        let numbers: Option<Vec<u64>> = array
            .iter()
            .map(|item| whole_number(item.get_ref()).filter(|number| range.contains(number)))
            .collect();
        match numbers {
            Some(numbers) => Some(self.found(field, found, numbers)),
            None => self.wrong(field, found, &rule),
        }
    }

    /// [`Table::number`] for a field that must be there.
    pub fn required_number(&self, field: &'static str, range: Range<u64>) -> Option<Found<u64>> {
        self.required(field)?;
        self.number(field, range)
    }

    /// [`Table::numbers`] for a field that must be there.
    pub fn required_numbers(
        &self,
        field: &'static str,
        range: Range<u64>,
    ) -> Option<Found<Vec<u64>>> {
        self.required(field)?;
        self.numbers(field, range)
    }

    /// A text or a list of texts, which must be there and not empty, each of which `parse` must
    /// accept.
    pub fn required_parsed_list<T>(
        &self,
        field: &'static str,
        rule: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<Found<Vec<T>>> {
        self.required(field)?;
        let found = self.field(field)?;
        let items: Vec<&Spanned<DeValue<'t>>> = match found.get_ref().as_array() {
            Some(array) if !array.is_empty() => array.iter().collect(),
            Some(_) => return self.wrong(field, found, "must name at least one"),
            None => vec![found],
        };
        let mut values = Vec::new();
        for item in &items {
            match item.get_ref().as_str() {
                Some(text) => match parse(text) {
                    Some(value) => values.push(value),
                    None => return self.wrong(field, item, &format!("{text:?} {rule}")),
                },
                None => {
                    return self.wrong(field, item, "must be a text in quotes, or a list of such");
                }
            }
        }
        Some(self.found(field, found, values))
    }

    /// The table under `field`, which must be there.
    pub fn table(&self, field: &'static str) -> Option<Table<'d, 't>> {
        self.required(field)?;
        let found = self.field(field)?;
        match found.get_ref().as_table() {
            Some(table) => Some(Table::new(self.report, table, found.span(), self.name(field))),
            None => self.wrong(field, found, "must be a table"),
        }
    }

    /// The table under `field` once more, to report on it.
    pub fn subtable(&self, field: &'static str) -> Option<Table<'d, 't>> {
        let found = self.field(field)?;
        let table = found.get_ref().as_table()?;
        Some(Table::new(self.report, table, found.span(), self.name(field)))
    }

    /// Says that `field` is known although nobody reads it here.
    pub fn allow(&self, field: &'static str) {
        let _ = self.field(field);
    }

    /// The names, texts and places of the table under `field`, none when it is absent; a value that
    /// is no text is `None`.
    pub fn texts(&self, field: &'static str) -> Option<Vec<NamedText>> {
        let Some(found) = self.field(field) else { return Some(Vec::new()) };
        let Some(table) = found.get_ref().as_table() else {
            return self.wrong(field, found, "must be a table");
        };
        let texts = table.iter().map(|(key, value)| {
            let text = value.get_ref().as_str().map(str::to_owned);
            (key.get_ref().to_string(), text, key.span())
        });
        Some(texts.collect())
    }

    /// The tables `[[field]]`, of which there may be none.
    pub fn optional_tables(&self, field: &'static str) -> Vec<Table<'d, 't>> {
        match self.has(field) {
            true => self.tables(field),
            false => {
                self.allow(field);
                Vec::new()
            }
        }
    }

    /// The tables `[[field]]`, at least one.
    pub fn tables(&self, field: &'static str) -> Vec<Table<'d, 't>> {
        self.known.borrow_mut().push(field);
        let Some(found) = self.fields.get(field) else {
            let rule = format!("at least one [[{}]] must be there", self.bare_name(field));
            self.report.fault(&self.span, self.name(field), rule);
            return Vec::new();
        };
        let Some(array) = found.get_ref().as_array().filter(|array| !array.is_empty()) else {
            let rule = format!("must be tables [[{}]]", self.bare_name(field));
            self.report.fault(&found.span(), self.name(field), rule);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (place, item) in array.iter().enumerate() {
            let name = format!("{}[{place}]", self.name(field));
            match item.get_ref().as_table() {
                Some(table) => tables.push(Table::new(self.report, table, item.span(), name)),
                None => self.report.fault(&item.span(), name, "must be a table"),
            }
        }
        tables
    }

    /// Reports every field that nobody asked for.
    pub fn finish(&self) {
        let known = self.known.borrow();
        for key in self.fields.keys() {
            let field: &str = key.get_ref();
            if !known.contains(&field) {
                let rule = format!("unknown field; known are {}", known.join(", "));
                self.report.fault(&key.span(), self.name(field), rule);
            }
        }
    }

    /// The table's name as it stands in brackets: without the places in lists.
    fn bare_name(&self, field: &str) -> String {
        let mut bare = String::new();
        let mut inside = false;
        for character in self.name(field).chars() {
            match character {
                '[' => inside = true,
                ']' => inside = false,
                _ if inside => {}
                _ => bare.push(character),
            }
        }
        bare
    }

    fn required(&self, field: &'static str) -> Option<()> {
        if self.fields.get(field).is_some() {
            return Some(());
        }
        self.known.borrow_mut().push(field);
        self.report.fault(&self.span, self.name(field), "must be there");
        None
    }

    fn field(&self, field: &'static str) -> Option<&'d Spanned<DeValue<'t>>> {
        let mut known = self.known.borrow_mut();
        if !known.contains(&field) {
            known.push(field);
        }
        self.fields.get(field)
    }

    fn found<T>(&self, field: &str, at: &Spanned<DeValue<'_>>, value: T) -> Found<T> {
        Found { value, span: at.span(), field: self.name(field) }
    }

    fn wrong<T>(&self, field: &str, at: &Spanned<DeValue<'_>>, rule: &str) -> Option<T> {
        self.report.fault(&at.span(), self.name(field), rule);
        None
    }
}

fn whole_number(value: &DeValue<'_>) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}
