//! The table, as text and as JSON.

use std::path::Path;

use serde_json::{Value, json};

/// One figure.
struct Row {
    what: String,
    value: f64,
    unit: &'static str,
    note: String,
    /// The most that it should be.
    goal: Option<f64>,
}

/// The figures of one run.
pub struct Run {
    title: String,
    rows: Vec<Row>,
}

impl Run {
    pub fn new(title: String) -> Self {
        Self { title, rows: Vec::new() }
    }

    /// A figure; `goal` is the most that it should be.
    pub fn add(&mut self, what: &str, value: f64, unit: &'static str, goal: Option<f64>, note: impl Into<String>) {
        let row = Row { what: what.to_owned(), value, unit, note: note.into(), goal };
        println!("    {}", line(&row));
        self.rows.push(row);
    }
}

fn verdict(row: &Row) -> &'static str {
    match row.goal {
        None => "",
        Some(goal) if row.value <= goal => "reached",
        Some(_) => "SHORT",
    }
}

fn number(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value}") } else { format!("{value:.3}") }
}

fn line(row: &Row) -> String {
    let goal = row.goal.map(|goal| format!("(at most {})", number(goal))).unwrap_or_default();
    let value = format!("{} {}", number(row.value), row.unit);
    let text = format!("{:<58} {value:>14} {goal:<16} {:<8} {}", row.what, verdict(row), row.note);
    text.trim_end().to_owned()
}

/// Prints all runs, and writes them as JSON.
pub fn finish(runs: &[Run], path: &Path) {
    for run in runs {
        println!("\n== {}", run.title);
        for row in &run.rows {
            println!("{}", line(row));
        }
    }
    let rows = |run: &Run| {
        let row = |row: &Row| {
            json!({"what": row.what, "value": row.value, "unit": row.unit, "atMost": row.goal,
                "reached": row.goal.map(|goal| row.value <= goal), "note": row.note})
        };
        run.rows.iter().map(row).collect::<Vec<Value>>()
    };
    let report: Vec<Value> = runs.iter().map(|run| json!({"run": run.title, "figures": rows(run)})).collect();
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("target is ours");
    std::fs::write(path, format!("{:#}\n", json!({"runs": report}))).expect("target is ours");
    println!("\nwritten: {}", path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(path).display());
}
