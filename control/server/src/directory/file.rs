//! A directory as files: TOML, or CSV with a file a table (RFC 4180). Both have the same tables, fields and
//! rules, so that what is said of one holds for the other.

mod check;
mod read;
mod write;

pub use check::{DEFAULT_SRTP, Entries, Said, TenantEntry, Wanted};
pub use read::read;
pub use write::write;

/// Faults that are told of one import; more are counted.
const FAULTS: usize = 100;

/// A file of an import or an export.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// Its name, as faults show it. What ends in `.toml` is TOML, everything else is CSV.
    pub name: String,
    /// The table that a CSV file holds; without it the file's name says so, as `agents.csv` does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// What it says.
    pub text: String,
}

/// How files of an export are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One file, `directory.toml`.
    Toml,
    /// A file a table.
    Csv,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Fault {
    /// The file's name.
    pub file: String,
    /// The line that it begins at, counted from 1.
    pub line: u32,
    /// The field, as in `agent.number`; empty when the file cannot be read.
    pub field: String,
    /// The rule that it breaks.
    pub rule: String,
}

/// Everything that is wrong with the files of an import, as far as it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Faults {
    /// The first of them.
    pub faults: Vec<Fault>,
    /// How many there are beyond these.
    pub more: usize,
}

impl Faults {
    /// Adds one.
    pub fn add(&mut self, spot: &Spot, field: impl Into<String>, rule: impl Into<String>) {
        if self.faults.len() >= FAULTS {
            self.more += 1;
            return;
        }
        let (file, line) = (spot.file.to_string(), spot.line);
        self.faults.push(Fault { file, line, field: field.into(), rule: rule.into() });
    }

    /// The faults by line; those of one line stay in their order.
    pub fn sorted(mut self) -> Faults {
        self.faults.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        self
    }

    /// True when nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }
}

/// Where a record stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The file's name.
    pub file: std::sync::Arc<str>,
    /// The line that it begins at, counted from 1.
    pub line: u32,
}

/// A table of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// The tenants.
    Tenant,
    /// Where their agents may be.
    Location,
    /// The agents with their operators and parameters.
    Agent,
    /// Where calls go that are not taken.
    Forward,
    /// The addresses of a CCB for a location (S1-036).
    Mapping,
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Text,
    /// A whole number.
    Number,
    /// Texts in an order; in a CSV file with `;` between them.
    List,
}

/// What a field of a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// Nothing: it is not there.
    Absent,
    /// A text, not empty.
    Text(String),
    /// A whole number.
    Number(i64),
    /// Texts.
    List(Vec<String>),
}

/// A record as it stands in a file, its cells in the order of [`Table::columns`].
#[derive(Clone, Debug)]
pub struct Record {
    /// The table that it is of.
    pub table: Table,
    /// Where it stands.
    pub spot: Spot,
    /// What it says.
    pub cells: Vec<Cell>,
}

impl Table {
    /// All, in the order that records refer to each other.
    pub const ALL: [Table; 5] =
        [Table::Tenant, Table::Location, Table::Agent, Table::Forward, Table::Mapping];

    /// The name of a record: `agent`, as in `[[agent]]`.
    pub fn name(self) -> &'static str {
        match self {
            Table::Tenant => "tenant",
            Table::Location => "location",
            Table::Agent => "agent",
            Table::Forward => "forward",
            Table::Mapping => "mapping",
        }
    }

    /// The name of the table: `agents`, as in `agents.csv`.
    pub fn plural(self) -> String {
        format!("{}s", self.name())
    }

    /// The table of that name, plural or not.
    pub fn named(name: &str) -> Option<Table> {
        Table::ALL.into_iter().find(|table| table.name() == name || table.plural() == name)
    }

    /// The fields and what they hold.
    pub fn columns(self) -> &'static [(&'static str, Kind)] {
        use Kind::{List, Number, Text};
        match self {
            Table::Tenant => &[
                ("name", Text),
                ("realm", Text),
                ("default_location", Text),
                ("hold_music", Text),
                ("srtp", Text),
            ],
            Table::Location => &[("tenant", Text), ("name", Text)],
            Table::Agent => &[
                ("tenant", Text),
                ("agent", Text),
                ("operator", Text),
                ("number", Text),
                ("name", Text),
                ("type", Text),
                ("skills", List),
                ("rights", List),
                ("number_report", Text),
                ("incoming_limit", Number),
                ("outgoing_limit", Number),
                ("media_format", List),
                ("log_level", Text),
                ("encryption", Text),
                ("recording_path", Text),
                ("database_access", Text),
                ("phone", Text),
                ("password_hash", Text),
                ("password", Text),
            ],
            Table::Forward => &[
                ("tenant", Text),
                ("number", Text),
                ("when", Text),
                ("after_s", Number),
                ("to", Text),
            ],
            Table::Mapping => {
                &[("ccb", Number), ("location", Text), ("cti", List), ("sbc", List), ("own", List)]
            }
        }
    }

    /// The place of a field among the columns.
    pub fn column(self, name: &str) -> Option<usize> {
        self.columns().iter().position(|(column, _)| *column == name)
    }
}
