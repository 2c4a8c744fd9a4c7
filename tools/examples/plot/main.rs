//! Draws ratios that `tools/bench-peers --json` wrote as bars: `plot FILE.json OUT.svg [GROUP…]`.
//!
//! Each group of ratios (all that the file has, when none is named) is a section with an axis of its own. The drawing has no background, and colours
//! for light and dark pages.

#![forbid(unsafe_code)]

mod svg;

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use svg::{Bar, Section};

/// What is read of the file.
#[derive(Deserialize)]
struct Summary {
    ratios: Vec<Ratio>,
}

/// One ratio, over all rounds.
#[derive(Deserialize)]
struct Ratio {
    group: String,
    op: String,
    /// Bytes.
    size: u64,
    depth: u32,
    digests: bool,
    ratio: Spread,
    goal: Option<f64>,
}

#[derive(Deserialize, Clone, Copy)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Ratio {
    fn label(&self) -> String {
        let op = match self.op.as_str() {
            "retrieve" => "Retrieve",
            "store" => "Store",
            other => other,
        };
        let size =
            if self.size >= 1 << 20 { format!("{} MiB", self.size >> 20) } else { format!("{} KiB", self.size >> 10) };
        let digests = if self.digests { ", digests" } else { "" };
        format!("{op} {size}, depth {}{digests}", self.depth)
    }
}

/// The section of a group; in the order of operation, size and depth, without digests first.
fn section(title: &str, ratios: &[Ratio]) -> Result<Section> {
    let mut rows: Vec<&Ratio> = ratios.iter().filter(|ratio| ratio.group == title).collect();
    if rows.is_empty() {
        let groups: BTreeSet<&str> = ratios.iter().map(|ratio| ratio.group.as_str()).collect();
        bail!("no ratio is of the group {title:?}; there are: {}", Vec::from_iter(groups).join(", "));
    }
    rows.sort_by_key(|ratio| (ratio.digests, ratio.op.clone(), ratio.size, ratio.depth));
    let bars = rows
        .iter()
        .map(|ratio| Bar {
            label: ratio.label(),
            median: ratio.ratio.median,
            least: ratio.ratio.least,
            most: ratio.ratio.most,
            goal: ratio.goal,
        })
        .collect();
    Ok(Section { title: title.to_owned(), bars })
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(input), Some(output)) = (arguments.next(), arguments.next()) else {
        bail!("usage: plot FILE.json OUT.svg [GROUP…]");
    };
    let text = fs::read_to_string(&input).with_context(|| format!("cannot read {input}"))?;
    let summary: Summary =
        serde_json::from_str(&text).with_context(|| format!("{input} is not what tools/bench-peers --json writes"))?;
    let mut groups: Vec<String> = arguments.collect();
    if groups.is_empty() {
        for ratio in &summary.ratios {
            if !groups.contains(&ratio.group) {
                groups.push(ratio.group.clone());
            }
        }
    }
    let sections = groups.iter().map(|group| section(group, &summary.ratios)).collect::<Result<Vec<_>>>()?;
    fs::write(&output, svg::draw(&sections)).with_context(|| format!("cannot write {output}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{ "machine": {}, "ratios": [
        { "group": "a / b", "op": "store", "size": 1048576, "depth": 8, "digests": false, "ratio": { "median": 1.5, "least": 1.2, "most": 1.9 }, "goal": 1.6, "met": false },
        { "group": "a / b", "op": "read", "size": 4096, "depth": 1, "digests": true, "ratio": { "median": 2, "least": 2, "most": 2 }, "goal": null, "met": null } ] }"#;

    #[test]
    fn labels_and_goals_come_from_the_file() {
        let summary: Summary = serde_json::from_str(FILE).unwrap();
        let section = section("a / b", &summary.ratios).unwrap();
        let labels: Vec<&str> = section.bars.iter().map(|bar| bar.label.as_str()).collect();
        assert_eq!(labels, ["Store 1 MiB, depth 8", "read 4 KiB, depth 1, digests"]);
        assert_eq!(section.bars[0].goal, Some(1.6));
        assert_eq!(section.bars[1].goal, None);
    }

    #[test]
    fn a_group_that_is_not_there_is_named_with_those_that_are() {
        let summary: Summary = serde_json::from_str(FILE).unwrap();
        let error = section("c", &summary.ratios).err().unwrap().to_string();
        assert!(error.contains("\"c\"") && error.contains("a / b"), "{error}");
    }
}
