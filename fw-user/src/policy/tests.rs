//! Tests of the policy file: what it means, what is refused and where, and that no text makes it panic.

mod errors;
mod meaning;
mod properties;

use std::path::Path;

use super::{Policy, PolicyError, Problem};

/// Parses as a file `policy.toml` beside which there are no set files.
fn parse(text: &str) -> Result<Policy, PolicyError> {
    Policy::parse(text, Path::new("policy.toml"), Path::new("/nonexistent"))
}

fn valid(text: &str) -> Policy {
    parse(text).unwrap_or_else(|error| panic!("{error}\n---\n{text}"))
}

/// Everything that is wrong with the text.
fn problems(text: &str) -> Vec<Problem> {
    found(parse(text))
}

fn found(result: Result<Policy, PolicyError>) -> Vec<Problem> {
    match result {
        Err(PolicyError::Invalid { problems, .. }) => problems,
        other => panic!("expected an invalid policy, got {other:?}"),
    }
}

/// Asserts that exactly this is wrong with the text: `line: message`, or `line:column: message`.
fn wrong(text: &str, expected: &str) {
    let problems = problems(text);
    let [problem] = problems.as_slice() else { panic!("expected one problem: {problems:#?}\n---\n{text}") };
    assert_eq!(problem.to_string(), format!("policy.toml:{expected}"), "in\n{text}");
}
