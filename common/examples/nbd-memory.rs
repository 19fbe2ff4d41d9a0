//! Serves memory over NBD: `nbd-memory unix:/tmp/m.sock [SIZE_MIB] [TLS_DIR]`. For trying clients and measuring the front end.

use std::path::Path;
use std::sync::Arc;

use tidemark_common::nbd::memory::{FixedExports, MemoryExport};
use tidemark_common::nbd::{Server, ServerOptions, Tls};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().ok_or("usage: nbd-memory ADDRESS [SIZE_MIB] [TLS_DIR]")?.parse()?;
    let mebibytes: usize = arguments.next().map_or(Ok(64), |text| text.parse())?;
    let mut options = ServerOptions::default();
    if let Some(dir) = arguments.next() {
        options.connection.tls = Some(Tls::from_dir(Path::new(&dir), true)?);
    }
    let memory = Arc::new(MemoryExport::new(mebibytes << 20, false));
    let fixed = Arc::new(MemoryExport::new(1 << 20, true));
    let exports = FixedExports::default().with("", memory.clone()).with("memory", memory).with("read-only", fixed);
    let server = Server::bind(&[address], Arc::new(exports), options).await?;
    println!("{}", server.addresses().first().ok_or("no address")?);
    let stop = CancellationToken::new();
    let running = tokio::spawn(server.run(stop.clone()));
    tokio::signal::ctrl_c().await?;
    stop.cancel();
    Ok(running.await?)
}
