//! Entries to files.

use std::fmt::Write as _;

use super::check::Entries;
use super::{Cell, Format, SourceFile, Table};
use crate::directory::{Address, Agent};

/// The columns that only an export with secrets has, or none.
const SECRETS: [&str; 2] = ["password", "password_hash"];

/// Writes everything; hashes of passwords only `with_secrets`. `scope` is the one tenant that it is about.
pub fn write(
    entries: &Entries,
    format: Format,
    scope: Option<&str>,
    with_secrets: bool,
) -> Vec<SourceFile> {
    let shown = |table: Table| {
        let all = table.columns().iter().enumerate();
        let shown = all.filter(move |(_, (name, _))| {
            *name != SECRETS[0] && (with_secrets || *name != SECRETS[1])
        });
        shown.map(|(place, (name, _))| (place, *name)).collect::<Vec<_>>()
    };
    // Mappings are the blades', not a tenant's.
    let tables = Table::ALL.into_iter().filter(|table| scope.is_none() || *table != Table::Mapping);
    match format {
        Format::Toml => {
            let mut text = String::new();
            if let Some(scope) = scope {
                let _ = writeln!(text, "scope = {}\n", quoted(scope));
            }
            for table in tables {
                let columns = shown(table);
                for row in rows(entries, table) {
                    toml_record(&mut text, table, &columns, &row);
                }
            }
            vec![SourceFile { name: "directory.toml".into(), table: None, text }]
        }
        Format::Csv => tables
            .map(|table| {
                let text = csv_table(&shown(table), rows(entries, table));
                SourceFile { name: table.plural() + ".csv", table: None, text }
            })
            .collect(),
    }
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn toml_record(text: &mut String, table: Table, columns: &[(usize, &str)], row: &[Cell]) {
    let _ = writeln!(text, "[[{}]]", table.name());
    for (place, name) in columns {
        let _ = match &row[*place] {
            Cell::Absent => continue,
            Cell::Text(value) => writeln!(text, "{name} = {}", quoted(value)),
            Cell::Number(value) => writeln!(text, "{name} = {value}"),
            Cell::List(items) => {
                let items: Vec<String> = items.iter().map(|item| quoted(item)).collect();
                writeln!(text, "{name} = [{}]", items.join(", "))
            }
        };
    }
    text.push('\n');
}

fn csv_table(columns: &[(usize, &str)], rows: Vec<Vec<Cell>>) -> String {
    let mut writer = csv::WriterBuilder::new().from_writer(Vec::new());
    let written = "a Vec takes every write";
    writer.write_record(columns.iter().map(|(_, name)| *name)).expect(written);
    for row in rows {
        let fields = columns.iter().map(|(place, _)| match &row[*place] {
            Cell::Absent => String::new(),
            Cell::Text(value) => value.clone(),
            Cell::Number(value) => value.to_string(),
            Cell::List(items) => items.join(";"),
        });
        writer.write_record(fields).expect(written);
    }
    let bytes = writer.into_inner().unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}

/// The records of a table, in the order of their keys.
fn rows(entries: &Entries, table: Table) -> Vec<Vec<Cell>> {
    match table {
        Table::Tenant => {
            let row = |(name, tenant): (&String, &super::check::TenantEntry)| {
                let optional = |text: &Option<String>| text.as_deref().map_or(Cell::Absent, cell);
                vec![
                    cell(name),
                    cell(&tenant.realm),
                    optional(&tenant.default_location),
                    optional(&tenant.hold_music),
                    optional(&tenant.srtp),
                ]
            };
            entries.tenants.iter().map(row).collect()
        }
        Table::Location => {
            entries.locations.keys().map(|(tenant, name)| vec![cell(tenant), cell(name)]).collect()
        }
        Table::Agent => entries.agents.iter().map(|((tenant, _), it)| agent(tenant, it)).collect(),
        Table::Forward => {
            let rows = entries.forwards.iter().map(|((tenant, number, when), (after_s, to))| {
                let after_s = if *after_s == 0 { Cell::Absent } else { Cell::Number(*after_s) };
                vec![cell(tenant), cell(number), cell(when), after_s, cell(to)]
            });
            rows.collect()
        }
        Table::Mapping => {
            let rows = entries.mappings.iter().map(|((ccb, location), lists)| {
                let mut row = vec![Cell::Number((*ccb).into()), cell(location)];
                row.extend(lists.iter().map(|list| Cell::List(list.iter().map(address).collect())));
                row
            });
            rows.collect()
        }
    }
}

fn cell(text: &str) -> Cell {
    if text.is_empty() { Cell::Absent } else { Cell::Text(text.to_owned()) }
}

fn agent(tenant: &str, agent: &Agent) -> Vec<Cell> {
    let parameters = &agent.parameters;
    let limit = |limit: Option<u32>| limit.map_or(Cell::Absent, |it| Cell::Number(it.into()));
    vec![
        cell(tenant),
        cell(&agent.agent_id),
        cell(&agent.operator_id),
        cell(&agent.number),
        cell(&agent.name),
        cell(&parameters.agent_type),
        Cell::List(parameters.skills.clone()),
        Cell::List(parameters.rights.clone()),
        cell(&parameters.number_report),
        limit(parameters.incoming_limit),
        limit(parameters.outgoing_limit),
        Cell::List(parameters.media_format.clone()),
        cell(&parameters.log_level),
        cell(&parameters.encryption),
        cell(&parameters.recording_path),
        cell(&parameters.database_access),
        cell(&parameters.phone),
        cell(agent.password.expose()),
        Cell::Absent,
    ]
}

/// `udp:192.0.2.1:5060`; an IPv6 address stands in brackets.
fn address(address: &Address) -> String {
    match address.host.contains(':') {
        true => format!("{}:[{}]:{}", address.transport, address.host, address.port),
        false => format!("{}:{}:{}", address.transport, address.host, address.port),
    }
}
