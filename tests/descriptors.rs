//! What the API can say at all, read from its descriptors: nothing but
//! GetAccessToken carries a credential outwards (invariant 1), each RPC is an
//! action of the policy, and everything is documented.
//!
//! A new field in an answer shows up in the snapshot below. Before it is
//! accepted, somebody says where its text comes from and that it holds no
//! secret.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use obo_vault::domain::action::Action;
use obo_vault::proto;
use prost_reflect::{DescriptorPool, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor};

const PACKAGE: &str = "obovault.v1";

/// Messages of others that answers may contain: numbers alone.
const HARMLESS: [&str; 2] = ["google.protobuf.Timestamp", "google.protobuf.Duration"];

/// The one field that carries a credential outwards.
const ACCESS_TOKEN: &str = "obovault.v1.GetAccessTokenResponse.access_token";

/// Words in the names of fields that would carry what must stay inside.
const SECRET: [&str; 13] = [
    "refresh",
    "secret",
    "assertion",
    "password",
    "credential",
    "key_bytes",
    "key_material",
    "wrapped",
    "sealed",
    "ciphertext",
    "private",
    "imported",
    "token",
];

/// Fields whose names have such a word and whose text is something else.
const REVIEWED: [(&str, &str); 4] = [
    (ACCESS_TOKEN, "the one"),
    ("obovault.v1.GetAccessTokenResponse.token_type", "the word Bearer"),
    ("obovault.v1.ListGrantsResponse.next_page_token", "a place in a list, signed"),
    ("obovault.v1.ListTenantsResponse.next_page_token", "a place in a list, signed"),
];

#[test]
fn nothing_in_an_answer_can_hold_raw_bytes_or_any_message() {
    for message in answers() {
        let name = message.full_name();
        assert!(
            message.package_name() == PACKAGE || HARMLESS.contains(&name),
            "{name} is in an answer and could carry anything"
        );
        for field in message.fields() {
            assert!(field.kind() != Kind::Bytes, "{} can carry key bytes", field.full_name());
            assert!(!field.is_map(), "{} can carry anything by name", field.full_name());
        }
    }
}

#[test]
fn no_answer_has_a_field_for_a_refresh_token_or_a_key() {
    let reviewed: BTreeMap<_, _> = REVIEWED.into_iter().collect();
    let mut suspicious = BTreeSet::new();
    for field in fields_of_answers().filter(|field| !is_one_number(field)) {
        if SECRET.iter().any(|word| field.name().contains(word)) {
            let name = field.full_name();
            assert!(reviewed.contains_key(name), "{name} sounds as if it carried a secret outwards");
            suspicious.insert(name.to_owned());
        }
    }
    let stale: Vec<_> = reviewed.keys().filter(|name| !suspicious.contains(**name)).collect();
    assert!(stale.is_empty(), "no longer in any answer: {stale:?}");
}

#[test]
fn secrets_are_in_fields_marked_as_such_and_only_one_of_them_goes_out() {
    let going_in = [
        "obovault.v1.ExchangeOnBehalfOfRequest.user_access_token",
        "obovault.v1.ImportGrantRequest.imported_token",
    ];
    let (out, into): (BTreeSet<_>, BTreeSet<_>) = {
        let answers: BTreeSet<_> = fields_of_answers().map(|field| field.full_name().to_owned()).collect();
        redacted().into_iter().partition(|field| answers.contains(field))
    };
    assert_eq!(out, [ACCESS_TOKEN.to_owned()].into());
    assert_eq!(into, going_in.map(str::to_owned).into());
}

#[test]
fn all_text_in_answers_was_reviewed() {
    let text: BTreeSet<_> = fields_of_answers()
        .filter(|field| field.kind() == Kind::String)
        .map(|field| field.full_name().strip_prefix("obovault.v1.").unwrap().to_owned())
        .collect();
    insta::assert_snapshot!(text.into_iter().collect::<Vec<_>>().join("\n"));
}

#[test]
fn each_rpc_is_one_action_of_the_policy() {
    let rpcs: Vec<_> = pool()
        .services()
        .filter(|service| service.package_name() == PACKAGE)
        .flat_map(|service| service.methods().map(|m| m.name().to_owned()).collect::<Vec<_>>())
        .collect();
    let names: BTreeSet<_> = rpcs.iter().map(String::as_str).collect();
    assert_eq!(names.len(), rpcs.len(), "two RPCs share a name, and so an action: {rpcs:?}");
    let actions: BTreeSet<_> = Action::ALL.iter().map(|action| action.as_str()).collect();
    assert_eq!(names, actions);
}

/// Without these, protoc's plugins for Go, Java and C# refuse the files or put
/// everything into one class.
#[test]
fn every_file_says_where_its_code_goes_in_other_languages() {
    let mut classes = BTreeSet::new();
    for file in pool().files().filter(|file| file.package_name() == "obovault.v1") {
        let options = file.file_descriptor_proto().options.clone().unwrap_or_default();
        assert_eq!(options.go_package(), "obovault/v1;obovaultv1", "{}", file.name());
        assert_eq!(options.java_package(), "obovault.v1", "{}", file.name());
        assert!(options.java_multiple_files(), "{}", file.name());
        assert_eq!(options.csharp_namespace(), "OboVault.V1", "{}", file.name());
        assert!(classes.insert(options.java_outer_classname().to_owned()), "{}", file.name());
    }
    assert_eq!(classes.len(), 5);
}

#[test]
fn everything_is_documented() {
    let mut silent = Vec::new();
    for file in pool().files().filter(|file| file.package_name() == PACKAGE) {
        let commented = commented(&file);
        let mut look = |path: &[i32], name: &str| {
            if !commented.contains(path) {
                silent.push(name.to_owned());
            }
        };
        for message in file.messages() {
            look(message.path(), message.full_name());
            for field in message.fields() {
                look(field.path(), field.full_name());
            }
            assert_eq!(message.child_messages().count(), 0, "look into nested messages too");
            assert_eq!(message.child_enums().count(), 0, "look into nested enums too");
        }
        for word in file.enums() {
            look(word.path(), word.full_name());
            for value in word.values() {
                look(value.path(), value.full_name());
            }
        }
        for service in file.services() {
            look(service.path(), service.full_name());
            for method in service.methods() {
                look(method.path(), method.full_name());
            }
        }
    }
    assert!(silent.is_empty(), "without a comment: {silent:#?}");
}

fn pool() -> DescriptorPool {
    DescriptorPool::decode(proto::DESCRIPTORS).unwrap()
}

/// Every message that can leave the vault: the answers of all RPCs, what goes
/// with errors, and all that is in them.
fn answers() -> Vec<MessageDescriptor> {
    let pool = pool();
    let mut open: Vec<_> = pool
        .services()
        .filter(|service| service.package_name() == PACKAGE)
        .flat_map(|service| service.methods().map(|m| m.output()).collect::<Vec<_>>())
        .collect();
    open.push(pool.get_message_by_name("obovault.v1.InteractionRequired").unwrap());
    let mut found = BTreeMap::new();
    while let Some(message) = open.pop() {
        if found.insert(message.full_name().to_owned(), message.clone()).is_none() {
            open.extend(message.fields().filter_map(|field| field.kind().as_message().cloned()));
        }
    }
    assert!(found.len() > 15, "the walk over the answers ended early");
    found.into_values().collect()
}

fn fields_of_answers() -> impl Iterator<Item = FieldDescriptor> {
    answers()
        .into_iter()
        .filter(|message| message.package_name() == PACKAGE)
        .flat_map(|message| message.fields().collect::<Vec<_>>())
}

/// A count or a moment carries no token and no key.
fn is_one_number(field: &FieldDescriptor) -> bool {
    let number = match field.kind() {
        Kind::String | Kind::Bytes => false,
        Kind::Message(message) => HARMLESS.contains(&message.full_name()),
        _ => true,
    };
    number && !field.is_list()
}

/// The fields marked with `debug_redact`. The embedded descriptors have no such
/// mark, since the library that writes them does not know it; the text has.
fn redacted() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/obovault/v1");
    let mut marked = BTreeSet::new();
    for file in fs::read_dir(folder).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        let mut message = "";
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("message ") {
                message = name.split_whitespace().next().unwrap();
            }
            if line.contains("debug_redact = true") {
                let field = line.split_whitespace().nth(1).unwrap();
                marked.insert(format!("{PACKAGE}.{message}.{field}"));
            }
        }
    }
    marked
}

/// The places of the file that have a comment before them.
fn commented(file: &FileDescriptor) -> BTreeSet<Vec<i32>> {
    let source = file.file_descriptor_proto().source_code_info.as_ref().unwrap();
    let said = |text: &Option<String>| text.as_ref().is_some_and(|text| text.trim().len() > 3);
    source
        .location
        .iter()
        .filter(|place| said(&place.leading_comments))
        .map(|place| place.path.clone())
        .collect()
}
