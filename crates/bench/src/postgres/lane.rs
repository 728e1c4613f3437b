//! PostgreSQL as one of the engines.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::Layout;
use super::statement::{self, Parameter, SqlValue};
use crate::lane::{Answer, Lane};
use crate::latency::Latencies;
use crate::workload::{Form, Query};

/// Both ways in which PostgreSQL plans a prepared statement; left alone it settles on one of them.
const PLAN_MODES: [&str; 2] = ["force_custom_plan", "force_generic_plan"];

/// Runs of each way to write a query, to find the fastest.
const TRIALS: usize = 12;
const TRIAL_TIME_MAX: Duration = Duration::from_millis(1500);

/// One connection, for one schema, by the binary protocol with prepared statements.
pub struct PostgresLane {
    layout: Layout,
    runtime: Rc<Runtime>,
    client: Client,
    prepared: HashMap<String, Prepared>,
    plan_mode: &'static str,
}

struct Prepared {
    parameters: &'static [Parameter],
    page: tokio_postgres::Statement,
    page_sql: &'static str,
    count: Option<tokio_postgres::Statement>,
    count_sql: Option<&'static str>,
    plan_mode: &'static str,
}

impl PostgresLane {
    pub fn connect(connection_string: &str, layout: Layout, runtime: Rc<Runtime>) -> anyhow::Result<Self> {
        let client = runtime.block_on(connect(connection_string))?;
        let search_path = format!("SET search_path = {}, public", layout.name());
        runtime.block_on(client.batch_execute(&search_path))?;
        Ok(PostgresLane { layout, runtime, client, prepared: HashMap::new(), plan_mode: "" })
    }

    /// Prepares every way to write a query and keeps the one that is fastest on these forms.
    pub fn prepare(&mut self, query: &Query, forms: &[Form]) -> anyhow::Result<()> {
        let parameters = statement::parameters(&query.name)?;
        let statement = statement::statement(&query.name, self.layout)?;
        let count = match statement.count {
            Some(sql) => Some(self.prepare_sql(sql, query)?),
            None => None,
        };
        let mut best: Option<(Duration, Prepared)> = None;
        for page_sql in statement.pages {
            for plan_mode in PLAN_MODES {
                let page = self.prepare_sql(page_sql, query)?;
                let (count, count_sql) = (count.clone(), statement.count);
                let prepared = Prepared { parameters, page, page_sql, count, count_sql, plan_mode };
                self.prepared.insert(query.name.clone(), prepared);
                let time = self.trial(query, forms)?;
                let prepared = self.prepared.remove(&query.name).context("prepared above")?;
                if best.as_ref().is_none_or(|(fastest, _)| time < *fastest) {
                    best = Some((time, prepared));
                }
            }
        }
        let (_, prepared) = best.ok_or_else(|| anyhow!("{}: nothing to prepare", query.name))?;
        self.prepared.insert(query.name.clone(), prepared);
        Ok(())
    }

    /// The plans of a prepared query for one form, page and count.
    pub fn explain(&mut self, query: &Query, form: &Form) -> anyhow::Result<Vec<String>> {
        let prepared = self.prepared.get(&query.name).context("the query is prepared first")?;
        let values = values(prepared.parameters, form)?;
        let mut plans = Vec::new();
        for (sql, count) in [(Some(prepared.page_sql), prepared.page.params().len())]
            .into_iter()
            .chain(prepared.count.iter().map(|count| (prepared.count_sql, count.params().len())))
        {
            let Some(sql) = sql else { continue };
            let arguments: Vec<String> = values[..count].iter().map(SqlValue::literal).collect();
            // Through SQL's own PREPARE, so that the plan mode counts here too.
            let script = format!(
                "SET plan_cache_mode = {}; PREPARE explained AS {sql}; EXPLAIN (COSTS OFF) EXECUTE explained({}); \
                 DEALLOCATE explained",
                prepared.plan_mode,
                arguments.join(", ")
            );
            let messages = self.runtime.block_on(self.client.simple_query(&script))?;
            let lines = messages.iter().filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0),
                _ => None,
            });
            plans.push(lines.collect::<Vec<_>>().join("\n"));
        }
        self.plan_mode = "";
        Ok(plans)
    }

    /// The SQL that was chosen for the page.
    pub fn chosen(&self, query: &Query) -> Option<(&'static str, &'static str)> {
        self.prepared.get(&query.name).map(|p| (p.page_sql, p.plan_mode))
    }

    fn prepare_sql(&self, sql: &str, query: &Query) -> anyhow::Result<tokio_postgres::Statement> {
        self.runtime
            .block_on(self.client.prepare(sql))
            .with_context(|| format!("prepare {} for the {} schema", query.name, self.layout.name()))
    }

    fn trial(&mut self, query: &Query, forms: &[Form]) -> anyhow::Result<Duration> {
        let mut times = Latencies::default();
        let begin = Instant::now();
        for form in forms.iter().cycle().take(TRIALS) {
            times.push(self.answer(query, form)?.time);
            if begin.elapsed() > TRIAL_TIME_MAX {
                break;
            }
        }
        Ok(times.summary().map_or(Duration::MAX, |s| s.p50))
    }
}

impl Lane for PostgresLane {
    fn name(&self) -> &str {
        self.layout.name()
    }

    fn answer(&mut self, query: &Query, form: &Form) -> anyhow::Result<Answer> {
        let prepared = self.prepared.get(&query.name).ok_or_else(|| anyhow!("{} is not prepared", query.name))?;
        if self.plan_mode != prepared.plan_mode {
            let set = format!("SET plan_cache_mode = {}", prepared.plan_mode);
            self.runtime.block_on(self.client.batch_execute(&set))?;
            self.plan_mode = prepared.plan_mode;
        }
        let values = values(prepared.parameters, form)?;
        let bound: Vec<_> = values.iter().map(SqlValue::bind).collect();
        let begin = Instant::now();
        let (rows, total) = self.runtime.block_on(async {
            let page = self.client.query(&prepared.page, &bound);
            match &prepared.count {
                None => Ok::<_, tokio_postgres::Error>((page.await?, None)),
                // Both are sent before either is answered.
                Some(count) => {
                    let (rows, total) =
                        tokio::join!(page, self.client.query_one(count, &bound[..count.params().len()]));
                    Ok((rows?, Some(total?.get::<_, i64>(0))))
                }
            }
        })?;
        let time = begin.elapsed();
        Ok(Answer { time, items: rows.len(), total: total.map(i64::cast_unsigned), bytes: 0 })
    }
}

/// Opens a connection and runs it in the background of the current runtime.
pub async fn connect(connection_string: &str) -> anyhow::Result<Client> {
    let (client, connection) =
        tokio_postgres::connect(connection_string, NoTls).await.context("connect to PostgreSQL")?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            eprintln!("the connection to PostgreSQL ended: {error}");
        }
    });
    Ok(client)
}

fn values(parameters: &[Parameter], form: &Form) -> anyhow::Result<Vec<SqlValue>> {
    parameters.iter().map(|parameter| parameter.of(&form.spec)).collect()
}
