//! Filling the cluster from a data directory, in both schemas.

use std::path::Path;

use anyhow::Context;
use tokio_postgres::Client;

use crate::data::DataDir;

const JSONB: &str = include_str!("../../sql/jsonb.sql");
const RELATIONAL: &str = include_str!("../../sql/relational.sql");
const RELATIONAL_COVERING: &str = include_str!("../../sql/relational_covering.sql");

/// Loads the inventory, unless the cluster already holds this one, and sets which indexes there are.
pub async fn load(client: &Client, data: &DataDir, covering: bool) -> anyhow::Result<()> {
    let inventory = data.inventory();
    let fingerprint = fingerprint(&inventory)?;
    client.batch_execute("CREATE TABLE IF NOT EXISTS public.loaded (fingerprint text)").await?;
    let loaded = client.query_opt("SELECT fingerprint FROM public.loaded", &[]).await?;
    let mut is_changed = false;
    if loaded.is_none_or(|row| row.get::<_, &str>(0) != fingerprint) {
        eprintln!("loading {} into PostgreSQL", inventory.display());
        fill(client, &inventory).await?;
        client.execute("INSERT INTO public.loaded VALUES ($1)", &[&fingerprint]).await?;
        is_changed = true;
    }
    let has_covering = client.query_one("SELECT to_regclass('relational.covering_host') IS NOT NULL", &[]).await?;
    if covering != has_covering.get::<_, bool>(0) {
        let drop =
            "DROP INDEX relational.covering_host, relational.covering_cpu_usage, relational.covering_power_state";
        client.batch_execute(if covering { RELATIONAL_COVERING } else { drop }).await.context("covering indexes")?;
        is_changed = true;
    }
    if is_changed {
        // Statistics for the planner, and all rows visible, so that an index alone can answer.
        client.batch_execute("VACUUM (ANALYZE)").await?;
        client.batch_execute("CHECKPOINT").await?;
    }
    warm(client).await
}

/// Reads every table and index into the shared buffers, those of the relational schema last: it is the one that wins most queries.
async fn warm(client: &Client) -> anyhow::Result<()> {
    client
        .batch_execute(
            "CREATE EXTENSION IF NOT EXISTS pg_prewarm SCHEMA public; \
             SELECT sum(public.pg_prewarm(oid)) FROM (SELECT oid FROM pg_class \
               WHERE relnamespace IN ('jsonb'::regnamespace, 'relational'::regnamespace) AND relkind IN ('r', 'i') \
               ORDER BY relnamespace::regnamespace::text, relkind DESC) AS relations",
        )
        .await
        .context("pg_prewarm")
}

async fn fill(client: &Client, inventory: &Path) -> anyhow::Result<()> {
    client
        .batch_execute(
            "TRUNCATE public.loaded; \
             DROP SCHEMA IF EXISTS relational CASCADE; DROP SCHEMA IF EXISTS jsonb CASCADE; \
             CREATE EXTENSION IF NOT EXISTS pg_trgm SCHEMA public; \
             DROP TABLE IF EXISTS public.staging; CREATE UNLOGGED TABLE public.staging (document jsonb)",
        )
        .await?;
    // A line of NDJSON holds no control characters, so these two keep each line one value.
    let path = inventory.display().to_string().replace('\'', "''");
    client
        .batch_execute(&format!(
            r"COPY public.staging FROM '{path}' WITH (FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02')"
        ))
        .await
        .with_context(|| format!("the server's account must be able to read {path}"))?;
    client.batch_execute(JSONB).await.context("the JSONB schema")?;
    client.batch_execute("DROP TABLE public.staging").await?;
    client.batch_execute("VACUUM (ANALYZE) jsonb.resources").await?;
    client.batch_execute(RELATIONAL).await.context("the relational schema")?;
    Ok(())
}

/// What tells one inventory file from another, and one version of the schemas from another.
fn fingerprint(inventory: &Path) -> anyhow::Result<String> {
    let metadata = inventory.metadata()?;
    let modified = metadata.modified()?.duration_since(std::time::UNIX_EPOCH)?.as_nanos();
    Ok(format!("{} {modified} {} {}", metadata.len(), JSONB.len(), RELATIONAL.len()))
}
