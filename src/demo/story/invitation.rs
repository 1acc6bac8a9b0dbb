//! Commands to try while the demonstration stays up. Each works as it is
//! printed.

use std::path::Path;

use super::end::{FABRIKAM, GRACE};
use super::narrator::say;
use super::stage::{SERVICES, Stage};

/// Prints what can be tried.
pub fn invite(stage: &Stage) {
    let directory = stage.files.directory();
    let address = stage.vault.address();
    let program = place_program(directory);
    let [mail, files] = SERVICES;
    let of = |caller: &str| format!("--cert {caller}.pem --key {caller}.key");
    let token = format!(
        "token get --tenant {FABRIKAM} --subject {GRACE} --client portal --scope {} --resource {}",
        mail.scope, mail.resource,
    );
    let body = format!(
        r#"{{"tenant":"{FABRIKAM}","subject":"{GRACE}","client":"portal","scopes":["{}"],"resource":"{}"}}"#,
        mail.scope, mail.resource,
    );
    let method = "obovault.v1.TokenService/GetAccessToken";

    say("");
    say("It stays up for you to try. In another terminal, begin with");
    say("");
    say(&format!("cd {}", quoted(&directory.display().to_string())));
    say(&format!("export OBO_VAULT_ENDPOINT=https://{address} OBO_VAULT_CA=ca.pem"));
    let tries = [
        (
            "get an access token as the service mail, and be refused as files",
            vec![
                format!("{program} {token} {}", of(mail.caller)),
                format!("{program} {token} {}", of(files.caller)),
            ],
        ),
        (
            "see the keys, rotate them, see the grant",
            vec![
                format!("{program} tenant keys {FABRIKAM} {}", of("auditor")),
                format!("{program} rotation run --force-new-versions --refresh-all {}", of("rotator")),
                format!(
                    "{program} grant show --tenant {FABRIKAM} --subject {GRACE} --client portal {}",
                    of("auditor")
                ),
            ],
        ),
        (
            "read the audit log, and verify it",
            vec!["tail -n 4 audit.jsonl".to_owned(), format!("{program} audit verify --file audit.jsonl")],
        ),
        (
            "the same with buf or grpcurl, which learn the API by reflection",
            vec![
                format!(
                    "buf curl --protocol grpc --cacert ca.pem --cert mail.pem --key mail.key -d '{body}' https://{address}/{method}"
                ),
                format!("grpcurl -cacert ca.pem -cert mail.pem -key mail.key -d '{body}' {address} {method}"),
            ],
        ),
        (
            "purge the tenant: after it, the first command is refused",
            vec![format!("{program} tenant purge {FABRIKAM} --confirm {FABRIKAM} {}", of("purger"))],
        ),
    ];
    for (what, commands) in tries {
        say("");
        say(&format!("# {what}"));
        for command in commands {
            say(&command);
        }
    }
    say("");
    say("Ctrl-C ends it and removes its files.");
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
    fn a_path_with_a_space_is_one_word() {
        assert_eq!(quoted("/tmp/obo-vault-demo-1"), "/tmp/obo-vault-demo-1");
        assert_eq!(quoted("/tmp/a b's"), r"'/tmp/a b'\''s'");
    }
}
