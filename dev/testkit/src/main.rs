//! The testkit from the command line.

use std::{net::SocketAddr, process::ExitCode};

use clap::{Parser, Subcommand};
use eventpulse_testkit::sink::Sink;

#[derive(Parser)]
#[command(name = "eventpulse-testkit", about = "Parts of EventPulse's tests and demo")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Takes messages as Slack and as a webhook receiver would, and prints them as they come
    Sink {
        /// Where to listen; port 0 is a free one
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// Print each message as one line of JSON instead
        #[arg(long)]
        json: bool,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Sink { listen, json } => match Sink::start_on(listen).await {
            Ok(sink) => {
                println!("Messages for {} are shown here.", sink.url("services/demo"));
                sink.print_messages(json).await;
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("listen on {listen}: {error}");
                ExitCode::FAILURE
            }
        },
    }
}
