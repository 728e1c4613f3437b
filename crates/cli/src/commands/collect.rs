//! `lockstep collect`: what keeps the inventory as real sources have it.
//!
//! A vCenter is collected by the server, and the commands make and show its collectors (`sources`). This machine is read here, by the
//! collector that an agent has, too.

mod sources;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use lockstep_agent::{LibvirtAddress, keeper};

use super::Context;
use crate::times;

/// Keep the inventory as real sources have it.
#[derive(Debug, clap::Args)]
pub struct CollectArgs {
    #[command(subcommand)]
    command: Option<CollectCommand>,
}

/// Keep the inventory as real sources have it.
#[derive(Debug, clap::Subcommand)]
pub enum CollectCommand {
    /// List the sources: how far behind they are, how many resources each keeps, and what is wrong.
    #[command(after_help = "Examples:\n  lockstep collect list\n  lockstep collect list --output json")]
    List,
    /// Show all of one source: resources by type, and what it does not show.
    #[command(after_help = "Example:\n  lockstep collect show vc.example")]
    Show {
        /// The collector's name
        collector: String,
    },
    /// Let the server collect from a vCenter or an ESXi host, and wait for the first read.
    ///
    /// The server reads all that the account may see, and follows the changes from then on; it needs the role Read-only on the root,
    /// propagated. The password is kept on the server, sealed. The certificate is checked before the password is sent: by its
    /// thumbprint, or by the roots that the server's system trusts. One that is not trusted is shown.
    #[command(after_help = "Examples:\n  \
        lockstep collect vcenter vc.example --source-username lockstep@vsphere.local --source-password-file vc.password\n  \
        lockstep collect vcenter 10.0.0.9 --name esx9 --source-username root --source-thumbprint AB:CD:…")]
    Vcenter(sources::VcenterArgs),
    /// End a collector.
    ///
    /// The resources that it keeps stay and are anyone's, unless --purge has them deleted too.
    #[command(
        after_help = "Examples:\n  lockstep collect delete vc.example\n  lockstep collect delete vc.example --purge"
    )]
    Delete {
        /// The collector's name
        collector: String,
        /// Also delete the resources that it keeps
        #[arg(long)]
        purge: bool,
    },
    /// Keep this machine, and the virtual machines on it, in the inventory.
    ///
    /// Becomes the host's collector, in the name of the account that is given: the role `agent` is enough. One at a time keeps a host; another
    /// one is refused and told which it is. What changed is written and nothing else, and what others set (tags, annotations, folders) stays. A
    /// VM whose process has ended is off, and known again when it is started; to be rid of one, delete its resource. Meanwhile the site can
    /// switch the VMs of this machine.
    #[command(after_help = "Examples:\n  \
        lockstep collect host --url https://site-a:8443 --username agent-7 --once\n  \
        lockstep collect host --interval 10s")]
    Host(CollectHostArgs),
}

/// How often, and how long.
#[derive(Debug, clap::Args)]
pub struct CollectHostArgs {
    /// Read once, and end
    #[arg(long)]
    once: bool,
    /// How often to read, e.g. 5s, 500ms, 1m
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = times::pause, conflicts_with = "once")]
    interval: Duration,
    /// Do not switch virtual machines when the site orders it
    #[arg(long, conflicts_with = "once")]
    no_power: bool,
    /// Where libvirt is, e.g. `test+unix:///default?socket=/run/libvirt/libvirt-sock-ro` [default: qemu:///system, where it runs]
    #[arg(long, value_name = "URI", conflicts_with = "once")]
    libvirt: Option<LibvirtAddress>,
}

impl CollectArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode> {
        let args = match self.command.unwrap_or(CollectCommand::List) {
            CollectCommand::List => return sources::list(context).await,
            CollectCommand::Show { collector } => return sources::show(context, collector).await,
            CollectCommand::Vcenter(args) => return args.run(context).await,
            CollectCommand::Delete { collector, purge } => return sources::delete(context, collector, purge).await,
            CollectCommand::Host(args) => args,
        };
        args.run(context).await
    }
}

impl CollectHostArgs {
    async fn run(self, context: &Context) -> Result<ExitCode> {
        if self.once {
            let kept = keeper::keep_once(&context.client, self.interval).await?;
            for left in &kept.left_alone {
                eprintln!("left alone, since somebody else keeps it: {} {}", left.resource_type, left.id);
            }
            eprintln!("{}", keeper::Event::Wrote(kept));
            return Ok(ExitCode::SUCCESS);
        }
        let config = keeper::Config { interval: self.interval, takes_orders: !self.no_power, libvirt: self.libvirt };
        let interrupted = async {
            // Without the signal the process is ended by it.
            let _ = tokio::signal::ctrl_c().await;
        };
        keeper::keep(&context.client, config, interrupted, |event| eprintln!("lockstep: {event}")).await?;
        Ok(ExitCode::SUCCESS)
    }
}
