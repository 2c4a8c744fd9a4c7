//! The options for people: `docs/configuration.md` and the sample file, both made from `tables`.

use std::fmt::Write as _;

use super::tables::{DefaultDoc, File, OptionDoc, TableDoc};

/// The reference of all options, in Markdown.
#[must_use]
pub fn reference() -> String {
    let mut out = String::from(
        "# Configuration of kvof-target\n\n\
         <!-- Made by `kvof-target --print-reference`; a test keeps it equal to the code. -->\n\n\
         `kvof-target --config FILE` reads one TOML file. `--check-config` checks it without starting anything, and\n\
         `--print-config` shows the configuration in effect. A file that is wrong anywhere is refused as a whole, with\n\
         every problem named by line, key and value. [target/kvof-target.toml](../target/kvof-target.toml) is a commented\n\
         sample.\n\n\
         On SIGHUP the file is read again. Subsystems, their hosts and namespaces, pools and their devices, the advertised\n\
         addresses and the referrals change while the target runs; everything else needs a restart, which the log says.\n",
    );
    for table in File::docs() {
        // Writing to a String cannot fail.
        let _ = write_table(&mut out, &table);
    }
    out
}

fn write_table(out: &mut String, table: &TableDoc) -> std::fmt::Result {
    writeln!(out, "\n## `{}`\n\n{}", table.header, paragraph(table.text))?;
    for option in &table.options {
        writeln!(out, "\n### `{}`\n\n{}\n", option.name, paragraph(option.text))?;
        writeln!(out, "* Values: {}.", option.values)?;
        match &option.default {
            DefaultDoc::Value(value) => writeln!(out, "* Default: `{value}`.")?,
            DefaultDoc::Required => writeln!(out, "* Required.")?,
            DefaultDoc::Words { words, .. } => writeln!(out, "* Default: {words}.")?,
        }
    }
    Ok(())
}

/// A sample file: what is needed to start, and every other option as a comment with its default.
#[must_use]
pub fn sample() -> String {
    let mut out = String::from(
        "# A sample configuration of kvof-target: start it with\n\
         #   kvof-target --config target/kvof-target.toml\n\
         # Options that are comments show their defaults, or an example where the default depends on something.\n\
         # docs/configuration.md explains every option.\n",
    );
    for table in File::docs() {
        // Writing to a String cannot fail.
        let _ = write_sample(&mut out, &table);
    }
    out
}

fn write_sample(out: &mut String, table: &TableDoc) -> std::fmt::Result {
    // A referral needs another machine, a pool needs devices.
    let whole_is_comment = ["[[pool]]", "[[referral]]"].contains(&table.header);
    let mark = if whole_is_comment { "#" } else { "" };
    writeln!(out)?;
    comment(out, table.text)?;
    writeln!(out, "{mark}{}", table.header)?;
    for option in &table.options {
        let value = example(table.header, option);
        writeln!(out)?;
        comment(out, option.text)?;
        match &option.default {
            DefaultDoc::Required => writeln!(out, "{mark}{} = {value}", option.name)?,
            // A namespace that is tried out lies in memory, and needs a size.
            DefaultDoc::Words { .. } if ["size", "storage"].contains(&option.name) => {
                writeln!(out, "{} = {value}", option.name)?;
            }
            DefaultDoc::Words { words, .. } => writeln!(out, "# Default: {words}.\n#{} = {value}", option.name)?,
            DefaultDoc::Value(_) => writeln!(out, "#{} = {value}", option.name)?,
        }
    }
    Ok(())
}

/// The value that the sample gives to an option.
fn example(header: &str, option: &OptionDoc) -> String {
    match (&option.default, header, option.name) {
        (DefaultDoc::Value(value), ..) => value.clone(),
        (DefaultDoc::Words { example, .. }, ..) => (*example).to_owned(),
        (_, "[[port]]", "address") => "\"127.0.0.1:4420\"".to_owned(),
        (_, "[[pool]]", "name") => "\"flash\"".to_owned(),
        (_, "[[pool]]", "devices") => "[\"/dev/nvme0n1\", \"/dev/nvme1n1\"]".to_owned(),
        (_, "[[referral]]", "address") => "\"192.0.2.8:8009\"".to_owned(),
        (_, _, "nqn") => "\"nqn.2024-01.localhost:kvof\"".to_owned(),
        (_, _, "allowed_hosts") => "\"any\"".to_owned(),
        (_, _, "nsid") => "1".to_owned(),
        (_, _, "kind") => "\"kv\"".to_owned(),
        (_, _, name) => format!("\"{name}\""),
    }
}

fn comment(out: &mut String, text: &str) -> std::fmt::Result {
    text.lines().try_for_each(|line| writeln!(out, "# {}", line.trim()))
}

fn paragraph(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join("\n")
}
