//! Commands to try while the demonstration stays up. Each works as it is
//! printed.

use std::path::Path;
use std::time::Duration;

use anstyle::Style;

use super::end::{FABRIKAM, GRACE};
use super::narrator::{ASIDE, COMMAND, paint, say, wrapped};
use super::stage::{SERVICES, Service, Stage};

/// Prints what can be tried.
pub fn invite(stage: &Stage) {
    let directory = stage.files.directory();
    let address = stage.vault.address();
    say("");
    if let Some(moved) = clock_note(stage.ahead()) {
        wrapped(Style::new(), &moved);
        say("");
    }
    wrapped(Style::new(), "It stays up for you to try. In another terminal, begin with");
    say("");
    // Commands are not wrapped: each works as it is printed.
    paint(COMMAND, &format!("cd {}", quoted(&directory.display().to_string())));
    paint(COMMAND, &format!("export OBO_VAULT_ENDPOINT=https://{address} OBO_VAULT_CA=ca.pem"));
    for (what, commands) in tries(&place_program(directory), &address.to_string()) {
        say("");
        paint(ASIDE, &format!("# {what}"));
        for command in commands {
            paint(COMMAND, &command);
        }
    }
    say("");
    wrapped(Style::new(), "Ctrl-C ends it and removes its files.");
}

/// That the story has moved the clock, where it has: the vault's times are not
/// those of the reader's clock.
fn clock_note(ahead: Duration) -> Option<String> {
    let minutes = (ahead.as_secs() + 30) / 60;
    (minutes > 0).then(|| {
        format!(
            "The clock of the vault and its provider is {minutes} minutes ahead of yours: the story moved it. \
             So are the times in what they show, in the log and in the audit log."
        )
    })
}

/// What to try (without an apostrophe: not every shell skips comments that are
/// pasted), and the commands for it, which begin in the stage's directory.
fn tries(program: &str, address: &str) -> [(&'static str, Vec<String>); 5] {
    let [mail, files] = SERVICES;
    let Service { scope, resource, .. } = mail;
    let of = |caller: &str| format!("--cert {caller}.pem --key {caller}.key");
    let grant = format!("--tenant {FABRIKAM} --subject {GRACE} --client portal");
    let token = |caller: &str| {
        let wanted = format!("--scope {scope} --resource {resource}");
        lines(&[&format!("{program} token get {grant}"), &wanted, &of(caller)])
    };
    let body = format!(
        "'{{\"tenant\": \"{FABRIKAM}\", \"subject\": \"{GRACE}\", \"client\": \"portal\",\n    \
         \"scopes\": [\"{scope}\"], \"resource\": \"{resource}\"}}'"
    );
    let method = "obovault.v1.TokenService/GetAccessToken";
    [
        (
            "get an access token as the service mail, and be refused as files",
            vec![token(mail.caller), token(files.caller)],
        ),
        (
            "see the keys of the tenant, rotate them, see the grant",
            vec![
                format!("{program} tenant keys {FABRIKAM} {}", of("auditor")),
                lines(&[
                    &format!("{program} rotation run --force-new-versions --refresh-all"),
                    &of("rotator"),
                ]),
                lines(&[&format!("{program} grant show {grant}"), &of("auditor")]),
            ],
        ),
        (
            "read the audit log, and verify it",
            vec!["tail -n 4 audit.jsonl".to_owned(), format!("{program} audit verify --file audit.jsonl")],
        ),
        (
            "the same with buf or grpcurl, which learn the API by reflection",
            vec![
                lines(&[
                    "buf curl --protocol grpc --cacert ca.pem --cert mail.pem --key mail.key",
                    &format!("-d {body}"),
                    &format!("https://{address}/{method}"),
                ]),
                lines(&[
                    "grpcurl -cacert ca.pem -cert mail.pem -key mail.key",
                    &format!("-d {body}"),
                    &format!("{address} {method}"),
                ]),
            ],
        ),
        (
            "purge the tenant: from then on, the first command is refused",
            vec![lines(&[&format!("{program} tenant purge {FABRIKAM} --confirm {FABRIKAM}"), &of("purger")])],
        ),
    ]
}

/// One command over several lines.
fn lines(parts: &[&str]) -> String {
    parts.join(" \\\n    ")
}

/// How this program is called from the directory: by a link to it there, or by
/// its path where no link can be made.
fn place_program(directory: &Path) -> String {
    let Ok(program) = std::env::current_exe() else { return "obo-vault".to_owned() };
    match std::os::unix::fs::symlink(&program, directory.join("obo-vault")) {
        Ok(()) => "./obo-vault".to_owned(),
        Err(_) => quoted(&program.display().to_string()),
    }
}

/// A word for the shell.
fn quoted(word: &str) -> String {
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    if plain { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_moved_is_spoken_of() {
        let note = clock_note(Duration::from_millis(62 * 60_000 - 15)).unwrap();
        assert!(note.contains("62 minutes ahead"), "{note}");
        assert_eq!(clock_note(Duration::ZERO), None);
    }

    #[test]
    fn a_path_with_a_space_is_one_word() {
        assert_eq!(quoted("/tmp/obo-vault-demo-1"), "/tmp/obo-vault-demo-1");
        assert_eq!(quoted("/tmp/a b's"), r"'/tmp/a b'\''s'");
    }
}
