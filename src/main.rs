//! The program: parse, start the log, run, exit code. Everything else is in the library.

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use tabproxy::Server;
use tabproxy::cli::doctor::DoctorArgs;
use tabproxy::cli::{Cli, Task, keys};
use tabproxy::config::Config;
use tabproxy::practice::{Practice, PracticeArgs};
use tabproxy::progress::stages::Door;
use tabproxy::telemetry::log;
use tabproxy::telemetry::screen::Ability;
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&[format!("cannot start: {error}")]),
    };
    runtime.block_on(run(cli))
}

async fn run(cli: Cli) -> ExitCode {
    match cli.command {
        Task::Serve(settings) => match settings.check(&env) {
            Ok(config) => serve(config).await,
            Err(problems) => fail(&problems),
        },
        Task::Check(settings) => {
            let (lines, ok) = tabproxy::cli::check(*settings, &env);
            lines.iter().for_each(|line| println!("{line}"));
            if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Task::Doctor(args) => doctor(*args).await,
        Task::Health(args) => match args.listen(&env) {
            Ok(listen) => health(listen).await,
            Err(problem) => fail(&[problem]),
        },
        Task::Status(args) => match args.server.listen(&env) {
            Ok(listen) if args.once || args.json || !io::stdout().is_terminal() => {
                match tabproxy::status::once(listen, args.json, &mut io::stdout()).await {
                    Ok(true) => ExitCode::SUCCESS,
                    Ok(false) => ExitCode::FAILURE,
                    Err(error) => fail(&[error]),
                }
            }
            Ok(listen) => match tabproxy::status::live(listen, on_signal()).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&[format!("cannot use the terminal: {error}; try --once")]),
            },
            Err(problem) => fail(&[problem]),
        },
        Task::Demo(demo) => {
            let _log = log::init("warn", log::Format::Text, None, None);
            match tabproxy::demo::run(demo, &env, on_signal()).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&[error]),
            }
        }
        Task::Practice(args) => practice(args).await,
        Task::Key(task) => done(keys::run(task)),
        Task::Password => done(keys::hash_password()),
    }
}

/// Looks at everything. What still hangs then, as a disk or a resolver may, is not waited for.
async fn doctor(args: DoctorArgs) -> ExitCode {
    let code = match tabproxy::cli::doctor::run(args, &env).await {
        Ok(well) => i32::from(!well),
        Err(error) => {
            eprintln!("tabproxy: {error}");
            1
        }
    };
    std::process::exit(code)
}

/// What a monitor wants to know: the exit code, and for a person the reason.
async fn health(listen: SocketAddr) -> ExitCode {
    match tabproxy::health::ask(listen).await {
        Ok((is_ready, said)) => {
            println!("{}", said.trim_end());
            if is_ready { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => fail(&[error]),
    }
}

/// The practice site alone, with the lines that point a proxy at it.
async fn practice(mut args: PracticeArgs) -> ExitCode {
    let own = std::env::temp_dir().join(format!("tabproxy-practice-{}.pem", std::process::id()));
    let cert = args.cert_out.get_or_insert(own).clone();
    match Practice::start(args).await {
        Ok(site) => {
            println!("The practice site runs at {}. In another terminal:\n", site.front_url());
            println!("  export TABPROXY_ORIGIN={}", site.front_url());
            println!("  export TABPROXY_RESOLVE={}", site.resolve());
            println!("  export TABPROXY_TRUST_CERT={}", cert.display());
            println!("  tabproxy serve");
            site.serve_until(on_signal().cancelled_owned()).await;
            ExitCode::SUCCESS
        }
        Err(error) => fail(&[format!("cannot start the practice site: {error}")]),
    }
}

async fn serve(config: Config) -> ExitCode {
    let file = config.log_file.as_deref().map(|path| log::LogFile {
        path,
        size: config.log_size as u64,
        keep: config.log_keep,
    });
    let _log = match log::init(&config.log, config.log_format, Some(&config.instance), file) {
        Ok(guard) => guard,
        Err(error) => {
            return fail(&[format!("{error}; set TABPROXY_LOG_FILE to a file that can be written")]);
        }
    };
    let (began, ability) = (Instant::now(), Ability::of_stdout());
    let shows = ability.is_terminal && config.log_format == log::Format::Text;
    let has_console = config.admin_password.is_some() || config.listen.ip().is_loopback();
    let wants_key = config.require_key;
    let server = match Server::start(config, on_signal()).await {
        Ok(server) => server,
        Err(error) => return fail(&[error]),
    };
    let door = Door { addr: tabproxy::health::reachable(server.addr()), has_console, wants_key };
    let _progress = shows.then(|| tabproxy::progress::show(server.browser(), door, began, ability));
    match server.finished().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&[error]),
    }
}

fn done(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&[error]),
    }
}

/// One clear line for each thing that is wrong.
fn fail<E: std::fmt::Display>(errors: &[E]) -> ExitCode {
    errors.iter().for_each(|error| eprintln!("tabproxy: {error}"));
    ExitCode::FAILURE
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Cancelled by SIGTERM or SIGINT; a second one ends the program at once.
fn on_signal() -> CancellationToken {
    use tokio::signal::unix::{SignalKind, signal};
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            return;
        };
        for first in [true, false] {
            tokio::select! { _ = term.recv() => {} _ = int.recv() => {} }
            if first {
                tracing::info!("stopping: streams may end, a second signal ends them now");
                stop.cancel();
            } else {
                std::process::exit(130);
            }
        }
    });
    token
}
