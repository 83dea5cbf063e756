//! Files to records. What is wrong is noted with its line, and reading goes on.

use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Cell, Faults, Kind, Record, SourceFile, Spot, Table};

/// The field of a TOML file that names the one tenant that it is about.
const SCOPE: &str = "scope";

/// What files say.
#[derive(Debug, Default)]
pub struct Records {
    /// The records in the order of the files.
    pub records: Vec<Record>,
    /// The tables that the files have, even without records.
    pub tables: Vec<Table>,
    /// The one tenant that they are about.
    pub scope: Option<String>,
}

/// Reads files as far as they can be read.
pub fn read(files: &[SourceFile], faults: &mut Faults) -> Records {
    let mut records = Records::default();
    for file in files {
        let is_toml = file.table.is_none() && file.name.ends_with(".toml");
        let name: Arc<str> = file.name.as_str().into();
        let text = file.text.strip_prefix('\u{feff}').unwrap_or(&file.text);
        match is_toml {
            true => Toml::new(&name, text, faults).read(&mut records),
            false => match table_of(file) {
                Some(table) => read_csv(table, &name, text, &mut records, faults),
                None => {
                    let known: Vec<String> =
                        Table::ALL.iter().map(|table| table.plural() + ".csv").collect();
                    let rule = format!(
                        "no table is named so; a TOML file ends in .toml, there are {}",
                        known.join(", ")
                    );
                    faults.add(&Spot { file: name, line: 1 }, "", rule);
                }
            },
        }
    }
    records
}

fn table_of(file: &SourceFile) -> Option<Table> {
    let name = file.table.as_deref().unwrap_or_else(|| {
        let base = file.name.rsplit('/').next().unwrap_or_default();
        base.strip_suffix(".csv").unwrap_or(base)
    });
    Table::named(name)
}

struct Toml<'f> {
    name: &'f Arc<str>,
    text: &'f str,
    /// The first byte of each line.
    lines: Vec<usize>,
    faults: &'f mut Faults,
}

impl<'f> Toml<'f> {
    fn new(name: &'f Arc<str>, text: &'f str, faults: &'f mut Faults) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect();
        Toml { name, text, lines, faults }
    }

    fn spot(&self, byte: usize) -> Spot {
        let line = self.lines.partition_point(|first| *first <= byte);
        Spot { file: self.name.clone(), line: u32::try_from(line).unwrap_or(u32::MAX) }
    }

    fn fault(&mut self, byte: usize, field: impl Into<String>, rule: impl Into<String>) {
        let spot = self.spot(byte);
        self.faults.add(&spot, field, rule);
    }

    fn read(&mut self, records: &mut Records) {
        let (document, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            let at = error.span().map_or(0, |span| span.start);
            self.fault(at, "", error.message().replace('\n', "; "));
        }
        if !errors.is_empty() {
            return;
        }
        for (key, value) in document.get_ref() {
            let name: &str = key.get_ref();
            if name == SCOPE {
                match value.get_ref().as_str() {
                    Some(scope) => records.scope = Some(scope.to_owned()),
                    None => self.fault(value.span().start, SCOPE, "must be a tenant's name"),
                }
                continue;
            }
            let Some(table) = Table::ALL.into_iter().find(|table| table.name() == name) else {
                let known: Vec<&str> = Table::ALL.iter().map(|table| table.name()).collect();
                let rule = format!("unknown; there are {}", known.join(", "));
                self.fault(key.span().start, name, rule);
                continue;
            };
            records.tables.push(table);
            let Some(items) = value.get_ref().as_array() else {
                self.fault(key.span().start, name, format!("must be records [[{name}]]"));
                continue;
            };
            for item in items {
                match item.get_ref().as_table() {
                    Some(fields) => {
                        let record = self.record(table, item, fields);
                        records.records.push(record);
                    }
                    None => self.fault(item.span().start, name, "must be a table"),
                }
            }
        }
    }

    fn record(&mut self, table: Table, at: &Spanned<DeValue<'_>>, fields: &DeTable<'_>) -> Record {
        let mut cells = vec![Cell::Absent; table.columns().len()];
        for (key, value) in fields {
            let name: &str = key.get_ref();
            let field = format!("{}.{name}", table.name());
            let Some(place) = table.column(name) else {
                self.fault(key.span().start, field, unknown_field(table));
                continue;
            };
            match cell_of(table.columns()[place].1, value.get_ref()) {
                Ok(cell) => cells[place] = cell,
                Err(rule) => self.fault(value.span().start, field, rule),
            }
        }
        Record { table, spot: self.spot(at.span().start), cells }
    }
}

fn unknown_field(table: Table) -> String {
    let known: Vec<&str> = table.columns().iter().map(|(name, _)| *name).collect();
    format!("unknown field; there are {}", known.join(", "))
}

fn cell_of(kind: Kind, value: &DeValue<'_>) -> Result<Cell, &'static str> {
    match kind {
        Kind::Text => match value.as_str() {
            Some("") => Ok(Cell::Absent),
            Some(text) => Ok(Cell::Text(text.to_owned())),
            None => Err("must be a text in quotes"),
        },
        Kind::Number => {
            let number = value.as_integer();
            let number = number.and_then(|it| i64::from_str_radix(it.as_str(), it.radix()).ok());
            number.map(Cell::Number).ok_or("must be a whole number")
        }
        Kind::List => {
            let rule = "must be a list of texts in quotes";
            let items = value.as_array().ok_or(rule)?;
            let texts = items.iter().map(|item| item.get_ref().as_str().map(str::to_owned));
            texts.collect::<Option<Vec<_>>>().map(Cell::List).ok_or(rule)
        }
    }
}

fn read_csv(table: Table, name: &Arc<str>, text: &str, records: &mut Records, faults: &mut Faults) {
    let spot =
        |line: u64| Spot { file: name.clone(), line: u32::try_from(line).unwrap_or(u32::MAX) };
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text.as_bytes());
    let header = match reader.headers() {
        Ok(header) if !header.is_empty() => header.clone(),
        _ => return faults.add(&spot(1), "", "there must be a header with the fields' names"),
    };
    let mut places = Vec::with_capacity(header.len());
    for column in &header {
        let place = table.column(column);
        let field = || format!("{}.{column}", table.name());
        match place {
            None => faults.add(&spot(1), field(), unknown_field(table)),
            Some(_) if places.contains(&place) => {
                faults.add(&spot(1), field(), "is in the header twice");
            }
            Some(_) => {}
        }
        places.push(place);
    }
    records.tables.push(table);
    for row in reader.records() {
        let row = match row {
            Ok(row) => row,
            Err(error) => {
                let line = error.position().map_or(1, csv::Position::line);
                return faults.add(&spot(line), "", error.to_string());
            }
        };
        let spot = spot(row.position().map_or(1, csv::Position::line));
        if row.len() != header.len() {
            let rule = format!("has {} fields, the header has {}", row.len(), header.len());
            faults.add(&spot, table.name(), rule);
            continue;
        }
        let mut cells = vec![Cell::Absent; table.columns().len()];
        for (text, place) in row.iter().zip(&places) {
            let Some(place) = *place else { continue };
            let (column, kind) = table.columns()[place];
            match csv_cell(kind, text) {
                Ok(cell) => cells[place] = cell,
                Err(rule) => faults.add(&spot, format!("{}.{column}", table.name()), rule),
            }
        }
        records.records.push(Record { table, spot, cells });
    }
}

fn csv_cell(kind: Kind, text: &str) -> Result<Cell, &'static str> {
    Ok(match (kind, text) {
        (Kind::List, "") => Cell::List(Vec::new()),
        (_, "") => Cell::Absent,
        (Kind::Text, text) => Cell::Text(text.to_owned()),
        (Kind::Number, text) => Cell::Number(text.parse().map_err(|_| "must be a whole number")?),
        (Kind::List, text) => {
            Cell::List(text.split(';').map(|item| item.trim().to_owned()).collect())
        }
    })
}
