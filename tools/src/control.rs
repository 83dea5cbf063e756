//! `jackfield control`: the blade's control process; `jackfield agentproxy`: one without CCBs.

use std::path::Path;

use tokio::sync::watch;

use crate::cli;
use crate::config::Config;
use crate::process::{self, StopSignals};

/// Runs it until SIGTERM or SIGINT.
pub fn run(options: &cli::Control) -> Result<(), String> {
    process::die_with_parent(options.die_with_parent)?;
    process::keep_files_private();
    process::raise_open_files();
    let mut config = Config::load(&options.config)?;
    if let Some(folder) = &options.records {
        let absolute = std::path::absolute(folder);
        let absolute = absolute.map_err(|error| format!("--records {}: {error}", folder.display()));
        config.control.records = Some(absolute?);
    }
    serve(server_config(&config, &options.config)?)
}

/// Runs an AgentProxy until SIGTERM or SIGINT (S1-067).
pub fn agent_proxy(options: &cli::AgentProxy) -> Result<(), String> {
    process::keep_files_private();
    process::raise_open_files();
    let config = Config::load(&options.config)?;
    let proxy = config.agent_proxies.iter().find(|proxy| proxy.number == options.number);
    let proxy = proxy.ok_or_else(|| {
        format!("no AgentProxy {} in {}", options.number, options.config.display())
    })?;
    let control = &config.control;
    // Blades that share a directory share the key; else it is the one of this blade's control.
    let key = control.bus.token_key.clone().unwrap_or_else(|| control.state.join("token.key"));
    serve(control_server::Config {
        admin: proxy.admin.clone(),
        directory: control.directory.clone(),
        bus: control.bus.server_config()?,
        token_key: Some(key),
        blade: proxy.blade(control),
        cluster: control.bus.cluster.clone(),
        strategy: control.bus.strategy,
        balancers: control.balancers.clone(),
        agent_proxy: Some(proxy.number),
        drain_s: proxy.drain_s,
        ..control_server::Config::new(proxy.state.clone(), proxy.http.clone(), Vec::new())
    })
}

fn serve(config: control_server::Config) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime: {error}"))?;
    runtime.block_on(async {
        let signals = StopSignals::new().map_err(|error| format!("signals: {error}"))?;
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(async move {
            signals.wait().await;
            let _ = stop.send(true);
        });
        control_server::run(config, stopped).await.map_err(|error| error.to_string())
    })
}

/// Recordings are made where a CCB spools them.
fn recordings(config: &Config) -> Option<control_server::recordings::Config> {
    let spools: Vec<_> = config.ccbs.iter().filter_map(|ccb| ccb.media.spool.clone()).collect();
    let directory = config.control.recordings.clone();
    (!spools.is_empty()).then_some(control_server::recordings::Config { directory, spools })
}

fn server_config(config: &Config, file: &Path) -> Result<control_server::Config, String> {
    let pool = match &config.pool {
        None => None,
        Some(pool) => {
            let program =
                std::env::current_exe().map_err(|error| format!("this program: {error}"))?;
            let file = std::path::absolute(file).map_err(|error| format!("--config: {error}"))?;
            Some(pool.server_config(program, &file))
        }
    };
    let ccbs = config.ccbs.iter().map(|ccb| control_server::CcbConfig {
        id: ccb.number,
        region: ccb.region.clone(),
        socket: ccb.socket.clone(),
        spool: ccb.media.spool.clone(),
    });
    let control = &config.control;
    Ok(control_server::Config {
        pool,
        admin: control.admin.clone(),
        directory: control.directory.clone(),
        recordings: recordings(config),
        options_s: control.options_s,
        dns: control.dns.clone(),
        records: control.records.clone(),
        trace_to: control.trace_to.clone(),
        balancers: control.balancers.clone(),
        bus: control.bus.server_config()?,
        token_key: control.bus.token_key.clone(),
        blade: control.bus.blade.clone(),
        cluster: control.bus.cluster.clone(),
        strategy: control.bus.strategy,
        ..control_server::Config::new(control.state.clone(), control.http.clone(), ccbs.collect())
    })
}
