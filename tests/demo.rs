//! `obo-vault demo`: what a newcomer sees first must work as it is printed.

#![cfg(feature = "demo")]
#![expect(clippy::expect_used, reason = "a test that cannot run the binary must fail")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

fn demo(temporary: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_obo-vault"));
    command.arg("demo").env_remove("OBO_VAULT_OUTPUT").env("TMPDIR", temporary);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn entries(directory: &Path) -> usize {
    std::fs::read_dir(directory).expect("the directory is there").count()
}

/// No token, nor its beginning: JWTs begin with `eyJ`, the refresh tokens of
/// the development provider with `dev-rt`.
fn assert_no_token(text: &str) {
    assert!(!text.contains("eyJ") && !text.contains("dev-rt"), "a token is shown:\n{text}");
}

#[test]
fn the_story_is_told_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().expect("a directory");
    let output = demo(temporary.path()).arg("--exit").output().expect("the binary runs");
    let stdout = String::from_utf8(output.stdout).expect("the story is UTF-8");
    let stderr = String::from_utf8(output.stderr).expect("errors are UTF-8");
    assert_eq!(output.status.code(), Some(0), "{stdout}\n{stderr}");
    assert_no_token(&stdout);
    assert_no_token(&stderr);
    assert_eq!(stderr, "", "nothing went wrong, and a progress bar is for terminals");
    assert_eq!(entries(temporary.path()), 0, "files stay behind");
    assert!(!stdout.contains('\u{1b}'), "colours are for terminals");

    let mut rest = stdout.as_str();
    for fact in [
        "An operator makes a tenant",
        "on her behalf",
        "https://mail.example   provider",
        "https://files.example  provider",
        "https://mail.example   memory",
        "https://files.example  memory",
        "PERMISSION_DENIED, NOT_PERMITTED",
        "version 1  ACTIVE",
        "seals 41 tokens",
        "version 1  DESTROYED",
        "version 2  ACTIVE",
        "seals 41 tokens",
        "41 refreshed",
        "a vault with another root key refuses to start on it",
        "FAILED_PRECONDITION, INTERACTION_REQUIRED",
        r#"{"access_token":{"acrs""#,
        "2 key versions destroyed",
        "41 grants deleted",
        "FAILED_PRECONDITION, TENANT_PURGED",
        "each chained to the one before",
        "All 14 steps went as they should",
    ] {
        let at = rest.find(fact);
        let at = at.unwrap_or_else(|| panic!("{fact:?} is missing, or told too early:\n{stdout}"));
        rest = &rest[at + fact.len()..];
    }
    assert_eq!(stdout.lines().filter(|line| line.ends_with(" ms")).count(), 14, "each step has its time");
    assert!(stdout.lines().all(|line| line.chars().count() <= 80), "a line is too long:\n{stdout}");
}

#[test]
fn it_stays_up_and_its_commands_work_as_they_are_printed() {
    let temporary = tempfile::tempdir().expect("a directory");
    let mut up = Up::start(temporary.path());
    assert_no_token(&up.text.join("\n"));
    assert!(up.text.iter().all(|line| line.chars().count() <= 80), "a line is too long: {:#?}", up.text);

    let moved = up.text.iter().any(|line| line.contains("62 minutes ahead of yours"));
    assert!(moved, "the clock was moved and nothing says so: {:#?}", up.text);

    let commands = up.commands();
    let of = |what: &str| -> Vec<&String> { commands.iter().filter(|c| c.contains(what)).collect() };
    let [as_mail, as_files] = of("./obo-vault token get")[..] else { panic!("{commands:#?}") };
    let (status, token) = up.paste(&format!("{as_mail} --output json"));
    assert_eq!(status, Some(0), "{token}");
    let token: serde_json::Value = serde_json::from_str(&token).expect("the output is JSON");
    assert!(token["access_token"].as_str().is_some_and(|token| token.starts_with("eyJ")));
    assert_eq!(token["from_cache"], true);
    let (status, refused) = up.paste(as_files);
    assert_eq!(status, Some(4), "{refused}");

    for command in commands.iter().filter(|c| c.starts_with("./obo-vault") && *c != as_mail && *c != as_files)
    {
        let (status, text) = up.paste(command);
        assert_eq!(status, Some(0), "{command}\n{text}");
    }
    let (status, refused) = up.paste(as_mail);
    assert_eq!(status, Some(6), "the last command purges the tenant: {refused}");
    assert!(refused.contains("TENANT_PURGED"), "{refused}");

    assert_eq!(up.end("TERM"), Some(0));
    assert_eq!(entries(temporary.path()), 0, "files stay behind");
}

/// The heading of a demonstration in an environment.
fn heading(environment: &[(&str, &str)]) -> String {
    let temporary = tempfile::tempdir().expect("a directory");
    let mut command = demo(temporary.path());
    command.env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE").envs(environment.iter().copied());
    let mut up = Up { child: command.spawn().expect("the binary runs"), text: Vec::new() };
    let stdout = BufReader::new(up.child.stdout.take().expect("it is piped"));
    let mut lines = stdout.lines().map_while(Result::ok);
    lines.find(|line| line.contains("obo-vault at work")).expect("the story begins")
}

#[test]
fn colours_are_for_who_wants_them() {
    assert!(!heading(&[]).contains('\u{1b}'));
    assert!(heading(&[("CLICOLOR_FORCE", "1")]).contains('\u{1b}'));
    assert!(!heading(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]).contains('\u{1b}'));
}

#[test]
fn a_signal_during_the_story_ends_it_and_removes_its_files() {
    // The last is what a closed terminal sends.
    for signal in ["TERM", "INT", "HUP"] {
        let temporary = tempfile::tempdir().expect("a directory");
        let child = demo(temporary.path()).spawn().expect("the binary runs");
        let mut up = Up { child, text: Vec::new() };
        let mut first = [0];
        up.child.stdout.as_mut().expect("it is piped").read_exact(&mut first).expect("the story begins");
        assert_eq!(up.end(signal), Some(1), "a story not told to its end is no success");
        assert_eq!(entries(temporary.path()), 0, "files stay behind after {signal}");
    }
}

/// A demonstration that stays up; it is killed when the test ends early.
struct Up {
    child: Child,
    text: Vec<String>,
}

impl Up {
    fn start(temporary: &Path) -> Self {
        let mut child = demo(temporary).spawn().expect("the binary runs");
        let stdout = child.stdout.take().expect("it is piped");
        let mut up = Self { child, text: Vec::new() };
        for line in BufReader::new(stdout).lines() {
            let line = line.expect("the story is UTF-8");
            let last = line.starts_with("Ctrl-C ends it");
            up.text.push(line);
            if last {
                break;
            }
        }
        let invited = up.text.last().is_some_and(|line| line.starts_with("Ctrl-C ends it"));
        assert!(invited, "it ended before the invitation:\n{}", up.text.join("\n"));
        up
    }

    /// What it prints to be pasted, in order, from the `cd` on. The lines after
    /// a command's first are indented.
    fn commands(&self) -> Vec<String> {
        let pasted = self.text.iter().skip_while(|line| !line.starts_with("cd "));
        let mut commands: Vec<String> = Vec::new();
        for line in pasted.filter(|line| !line.is_empty() && !line.starts_with(['#', 'C'])) {
            match commands.last_mut() {
                Some(command) if line.starts_with(' ') => *command += &format!("\n{line}"),
                _ => commands.push(line.clone()),
            }
        }
        commands
    }

    /// Runs a command as a newcomer would: after the first two, in a shell.
    fn paste(&self, command: &str) -> (Option<i32>, String) {
        let commands = self.commands();
        let [enter, export, ..] = &commands[..] else { panic!("{commands:#?}") };
        assert!(export.starts_with("export "), "{export}");
        let script = format!("{enter} && {export} && {command}");
        let output = Command::new("sh").args(["-c", &script]).env_remove("OBO_VAULT_OUTPUT").output();
        let output = output.expect("the shell runs");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Asks it to end with a signal.
    fn end(&mut self, signal: &str) -> Option<i32> {
        let asked = Command::new("kill").args(["-s", signal, &self.child.id().to_string()]).status();
        assert!(asked.expect("kill runs").success());
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // Fails where it has ended, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
