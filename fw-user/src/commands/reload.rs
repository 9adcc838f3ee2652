//! `fw reload`: the daemon reads its policy file again, for good or on trial.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{Failure, Outcome, Pins, print};
use crate::control::{Answer, Request, ask, socket};
use crate::datapath::Directory;
use crate::typed_on::typed_on;

/// Options of `fw reload`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    pins: Pins,
    /// Put the policy before back after this time (90s, 5m, 1h), unless `fw confirm` comes
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    confirm: Option<Duration>,
    /// Also if the SSH connection that this is typed on could not be opened any more
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The longest trial; whoever has not looked by then will not.
const LONGEST: u64 = 24 * 3600;

fn parse_time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|last: char| last.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => 0,
    };
    let seconds = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(unit));
    match seconds {
        Some(seconds @ 1..=LONGEST) => Ok(Duration::from_secs(seconds)),
        _ => Err("expected a time from 1s to 24h, for example 90s, 5m or 1h".to_owned()),
    }
}

/// Asks the daemon to read its policy file again.
pub fn run(options: &Options) -> Outcome {
    let directory = Directory::open(&options.pins.bpffs)?;
    let confirm_within = options.confirm.map(|time| time.as_secs());
    let request = Request::Reload { confirm_within, typed_on: typed_on(), force: options.force };
    let answer = ask(&socket(directory.path())?, &request)?;
    let Answer::Applied { changes, confirm_within, cuts } = &answer else {
        return Err(failure(answer));
    };
    if let Some(connection) = cuts {
        eprintln!(
            "fw: WARNING: the connection on which you type, {connection}, is cut by this policy, and could not be opened \
             again"
        );
    }
    if options.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&answer)?))?;
        return Ok(ExitCode::SUCCESS);
    }
    let trial = confirm_within.map_or_else(String::new, |seconds| {
        format!(
            "the policy before comes back in {seconds} s, unless you log in once more and run `fw confirm`\n"
        )
    });
    print(&format!("the policy is in force; changed: {}\n{trial}", changes.line()))?;
    Ok(ExitCode::SUCCESS)
}

/// Why the daemon did not do it.
pub(super) fn failure(answer: Answer) -> Failure {
    match answer {
        Answer::Refused { message } => {
            Failure::Usage(anyhow::anyhow!("the policy file is refused, nothing was changed:\n{message}"))
        }
        Answer::Declined { message } | Answer::Failed { message } => {
            Failure::Failed(anyhow::Error::msg(message))
        }
        Answer::Applied { .. }
        | Answer::Confirmed
        | Answer::Waiting { .. }
        | Answer::Banned { .. }
        | Answer::Unbanned { .. }
        | Answer::Bans { .. } => {
            Failure::Failed(anyhow::anyhow!("the daemon answered something else; is it of another version?"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, seconds) in [("60s", 60), ("5m", 300), ("1h", 3600), ("90", 90), ("24h", LONGEST)] {
            assert_eq!(parse_time(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "0s", "25h", "s", "5 m", "-1s", "1d", "99999999999999999999h", "1.5h"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
