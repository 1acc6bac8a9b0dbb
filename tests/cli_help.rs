//! The help texts are documentation: they are reviewed as one text.

#![expect(clippy::expect_used, reason = "a test that cannot run the binary must fail")]

use std::process::Command;

fn help(command: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_obo-vault"))
        .args(command)
        .arg("--help")
        .env_clear()
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).expect("help is UTF-8")
}

#[test]
fn the_help_of_every_command() {
    let commands: &[&[&str]] = &[
        &[],
        &["init"],
        &["serve"],
        &["demo"],
        &["token", "get"],
        &["grant"],
        &["grant", "exchange"],
        &["grant", "import"],
        &["grant", "show"],
        &["grant", "list"],
        &["grant", "revoke"],
        &["tenant"],
        &["tenant", "create"],
        &["tenant", "list"],
        &["tenant", "rotate-key"],
        &["tenant", "keys"],
        &["tenant", "schedule-purge"],
        &["tenant", "restore"],
        &["tenant", "purge"],
        &["rotation", "run"],
        &["rotation", "show"],
        &["store"],
        &["store", "confirm-restore"],
        &["store", "adopt"],
        &["audit", "verify"],
        &["config", "check"],
        &["policy", "check"],
    ];
    let mut text = String::new();
    for command in commands {
        if !cfg!(feature = "demo") && *command == ["demo"] {
            continue;
        }
        let line = [&["obo-vault"], *command, &["--help"]].concat().join(" ");
        text += &format!("$ {line}\n{}\n", help(command));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn a_token_cannot_be_given_as_an_argument() {
    for command in ["exchange", "import"] {
        let help = help(&["grant", command]);
        assert!(help.contains("--token-file") && !help.contains("--token "), "{help}");
    }
}

#[test]
fn wrong_usage_and_no_connection_have_their_exit_codes() {
    let exit = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_obo-vault")).args(arguments).env_clear().output();
        output.expect("the binary runs").status.code()
    };
    assert_eq!(exit(&["tenant", "frobnicate"]), Some(2));
    assert_eq!(exit(&["--version"]), Some(0));
    assert_eq!(exit(&["serve", "--config", "no-such-file.toml"]), Some(3));
    // Port 1 is reserved (tcpmux) and nothing listens there.
    assert_eq!(exit(&["tenant", "list", "--endpoint", "http://127.0.0.1:1"]), Some(7));
    assert_eq!(exit(&["tenant", "list", "--endpoint", "http://vault.example:1"]), Some(2));
}

#[test]
fn a_changed_audit_log_and_a_wrong_policy_have_their_exit_code() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("the file is written");
        path.to_str().expect("the path is UTF-8").to_owned()
    };
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_obo-vault")).args(arguments).env_clear().output();
        let output = output.expect("the binary runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };

    let (code, text) = run(&["policy", "check", "--file", "deploy/policy.cedar"]);
    assert_eq!(code, Some(0), "{text}");
    let policy = file("policy", "permit (principal, action == Action::\"Everything\", resource);");
    let (code, text) = run(&["policy", "check", "--file", &policy]);
    assert_eq!(code, Some(8), "{text}");
    assert!(text.contains("line 1"), "{text}");

    let log = file("audit", "{\"not\":\"an entry\"}\n");
    let (code, text) = run(&["audit", "verify", "--file", &log]);
    assert_eq!(code, Some(8), "{text}");
    let (code, text) = run(&["audit", "verify", "--file", &log, "--head", "short"]);
    assert_eq!(code, Some(9), "{text}");
    let (code, text) = run(&["audit", "verify", "--file", "no-such-file"]);
    assert_eq!(code, Some(3), "{text}");
}
