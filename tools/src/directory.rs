//! `directory ...`: asks control for its directory as files, or hands it some.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use crate::admin::text;
use crate::cli::{DirectoryCommand, Export, Format, Import, Where};
use crate::http::{self, Answer, HttpError, Server};
use crate::order::{Heard, heard};
use crate::place;
use crate::show::say;

/// How long control may take: it may have to make hashes of 100,000 passwords.
const LONGEST: Duration = Duration::from_secs(3_600);
/// The status of files that are wrong.
const FAULTS: u16 = 422;
/// The mode of files: they name people, and may hold hashes.
const FILE_MODE: u32 = 0o600;

/// Exports or imports.
pub fn run(command: &DirectoryCommand) -> Result<ExitCode, String> {
    match command {
        DirectoryCommand::Export(options) => export(options),
        DirectoryCommand::Import(options) => import(options),
    }
}

fn export(options: &Export) -> Result<ExitCode, String> {
    let is_csv = options.format == Format::Csv || options.table.is_some();
    if is_csv && options.output.is_none() && options.table.is_none() {
        return Err("CSV is a file a table: name a folder with --output, or one --table".into());
    }
    let mut path = format!("/v1/directory?format={}", if is_csv { "csv" } else { "toml" });
    path += if options.with_secrets { "&secrets=true" } else { "" };
    if let Some(tenant) = &options.tenant {
        path += &format!("&tenant={}", encoded(tenant));
    }
    let (admin, asked) =
        ask(&options.at, async |admin| http::get_for(admin, &path, LONGEST).await)?;
    let value = match heard(&admin, asked)? {
        Heard::Value(value) => value,
        Heard::Exit(code) => return Ok(code),
    };
    let mut files: Vec<(String, String)> = value["files"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|file| (text(&file["name"]), text(&file["text"])))
        .collect();
    if let Some(table) = &options.table {
        files.retain(|(name, _)| {
            let base = name.strip_suffix(".csv").unwrap_or(name);
            base == table || base.strip_suffix('s') == Some(table)
        });
        if files.is_empty() {
            return Err(format!("there is no table {table}"));
        }
    }
    match &options.output {
        None => say(files.iter().map(|(_, text)| text.trim_end()).collect::<String>().as_str())?,
        Some(folder) if is_csv => {
            fs::create_dir_all(folder).map_err(|why| format!("{}: {why}", folder.display()))?;
            for (name, text) in &files {
                save(&folder.join(name), text)?;
            }
        }
        Some(path) => files.iter().try_for_each(|(_, text)| save(path, text))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn save(path: &Path, text: &str) -> Result<(), String> {
    let file =
        fs::File::options().create(true).truncate(true).write(true).mode(FILE_MODE).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|why| format!("{}: {why}", path.display()))
}

fn import(options: &Import) -> Result<ExitCode, String> {
    let mut files = Vec::new();
    for path in &options.files {
        for path in sources(path)? {
            let said = fs::read_to_string(&path);
            let said = said.map_err(|why| format!("{}: {why}", path.display()))?;
            let table = (path.extension().is_none_or(|ending| ending != "toml"))
                .then_some(options.table.as_deref())
                .flatten();
            files.push(json!({ "name": path.display().to_string(), "table": table, "text": said }));
        }
    }
    let mut path = format!("/v1/directory?check={}&prune={}", options.check, options.prune);
    if let Some(tenant) = &options.tenant {
        path += &format!("&tenant={}", encoded(tenant));
    }
    let body = json!({ "files": files });
    let (admin, asked) =
        ask(&options.at, async |admin| http::put_for(admin, &path, &body, LONGEST).await)?;
    if let Ok(answer) = &asked
        && answer.status == FAULTS
    {
        let value = answer.json().map_err(|why| format!("control at {admin}: {why}"))?;
        eprintln!("{}", faults(&value));
        return Ok(ExitCode::FAILURE);
    }
    match heard(&admin, asked)? {
        Heard::Value(value) => {
            say(&if options.json { value.to_string() } else { words(&value) })?;
            Ok(ExitCode::SUCCESS)
        }
        Heard::Exit(code) => Ok(code),
    }
}

/// The file, or those of a folder.
fn sources(path: &Path) -> Result<Vec<PathBuf>, String> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let failed = |why: std::io::Error| format!("{}: {why}", path.display());
    let entries = fs::read_dir(path).map_err(failed)?;
    let mut files = Vec::new();
    for entry in entries {
        let file = entry.map_err(failed)?.path();
        if file.extension().is_some_and(|ending| ending == "csv" || ending == "toml") {
            files.push(file);
        }
    }
    files.sort();
    match files.is_empty() {
        true => Err(format!("{}: no .csv and no .toml file there", path.display())),
        false => Ok(files),
    }
}

fn ask(
    at: &Where,
    asking: impl AsyncFnOnce(&Server) -> Result<Answer, HttpError>,
) -> Result<(Server, Result<Answer, HttpError>), String> {
    let admin = Server::Unix(place::find(at)?.control.admin.clone());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let asked = runtime.block_on(asking(&admin));
    Ok((admin, asked))
}

/// A value of a URL's query.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let encode = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

fn faults(answer: &Value) -> String {
    let line = |fault: &Value| {
        let [file, line, field, rule] =
            ["file", "line", "field", "rule"].map(|name| text(&fault[name]));
        let field = if field.is_empty() { field } else { field + ": " };
        format!("{file}:{line}: {field}{rule}")
    };
    let mut lines: Vec<String> =
        answer["faults"].as_array().into_iter().flatten().map(line).collect();
    if let Some(more) = answer["more"].as_u64().filter(|more| *more > 0) {
        lines.push(format!("and {more} more"));
    }
    lines.push(text(&answer["error"]["message"]));
    lines.join("\n")
}

fn words(answer: &Value) -> String {
    let mut lines: Vec<String> =
        answer["changes"].as_array().into_iter().flatten().map(text).collect();
    let untold = answer["changed"].as_u64().unwrap_or(0).saturating_sub(lines.len() as u64);
    if untold > 0 {
        lines.push(format!("and {untold} more"));
    }
    for (table, counts) in answer["tables"].as_object().into_iter().flatten() {
        let [added, changed, removed, same] =
            ["added", "changed", "removed", "same"].map(|name| text(&counts[name]));
        lines.push(format!(
            "{table:<8} {added} added, {changed} changed, {removed} removed, {same} as before"
        ));
    }
    if let Some(count) = answer["logged_out"].as_u64().filter(|count| *count > 0) {
        lines.push(format!("{count} logged out, whose records went"));
    }
    let would = if answer["check"] == true { "would be " } else { "" };
    lines.push(format!("{} {would}changed", answer["changed"]));
    lines.join("\n")
}
