//! The one `jackfield` binary: the data plane and the control process, and the tools around them.

mod admin;
mod blades;
mod cli;
mod clock;
mod config;
mod control;
mod dataplane;
mod delays;
mod demo;
mod desk;
mod directory;
mod fleet;
mod forward;
mod http;
mod load;
mod log;
mod order;
mod place;
mod pool;
mod process;
mod queue;
mod show;
mod supervise;
mod top;
mod trace;
mod view;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;

use cli::{Command, ConfigCommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    // The tools print what they find; their log is for what they did not expect.
    let tool = !matches!(
        cli.command,
        Command::Dataplane(_) | Command::Control(_) | Command::AgentProxy(_) | Command::Demo(_)
    );
    log::start(if tool { "warn" } else { "info" });
    match run(cli.command) {
        Ok(code) => code,
        Err(why) => {
            eprintln!("jackfield: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode, String> {
    match command {
        Command::Dataplane(options) => dataplane::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Control(options) => control::run(&options).map(|()| ExitCode::SUCCESS),
        Command::AgentProxy(options) => control::agent_proxy(&options).map(|()| ExitCode::SUCCESS),
        Command::Demo(options) => demo::run(&options),
        Command::Status(options) => show::status(&options),
        Command::Blades(options) => blades::run(&options),
        Command::Agents(options) => show::agents(&options),
        Command::Leases(options) => show::leases(&options),
        Command::Calls(options) => show::calls(&options),
        Command::Call(command) => order::run(&command),
        Command::Forward(command) => forward::run(&command),
        Command::HoldMusic(options) => forward::hold_music(&options),
        Command::Srtp(options) => forward::srtp(&options),
        Command::Directory(command) => directory::run(&command),
        Command::Queues(view) => queue::list(&view),
        Command::Queue(command) => queue::run(&command),
        Command::Pool(command) => pool::run(&command),
        Command::Trace(options) => trace::run(&options),
        Command::Top(options) => top::run(&options),
        Command::Config(ConfigCommand::Check { file }) => check(&file),
        Command::Load(options) => load::run(&options),
    }
}

/// `config check`
fn check(file: &Path) -> Result<ExitCode, String> {
    match config::Config::load(file) {
        Ok(config) => {
            show::say(&format!("{}: good\n{}", file.display(), config.summary()))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(faults) => {
            eprintln!("{faults}");
            Ok(ExitCode::FAILURE)
        }
    }
}
