//! Opening the one endpoint: exactly the sockets, relays and lookups that were asked for.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use iroh::address_lookup::memory::MemoryLookup;
use iroh::address_lookup::{AddrFilter, DnsAddressLookup, PkarrPublisher, PkarrResolver};
use iroh::endpoint::{
    BindError, BindOpts, Builder, IdleTimeout, PortmapperConfig, QuicTransportConfig, VarInt,
    presets,
};
use iroh::{Endpoint, RelayMode};
use iroh_mainline_address_lookup::DhtAddressLookup;
use iroh_mdns_address_lookup::MdnsAddressLookup;

use crate::access::{Access, Gate};
use crate::error::StartError;
use crate::options::{Discovery, Options, Relay};

/// Flow control of one stream, in bytes. Not more: noq-proto 1.4 closes the whole connection with
/// "too many gaps in stream buffer" once more than 1,024 packets' worth of a stream wait to be
/// read, gaps or not (quinn issue 2809), which a reader behind a slow disk meets at once. Far paths
/// are filled by several streams.
const STREAM_WINDOW: u32 = 1 << 20;
/// Flow control of a connection, in bytes: what it may have under way that nobody has read yet. A
/// device may fill those of all its connections, so it is as much as one stream has;
/// [`lane`](crate::lane) widens it for objects.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW;
/// Bytes that may be sent and not yet acknowledged per connection: as much as the widest window
/// of the other side.
const SEND_WINDOW: u64 = 32 << 20;
/// Bidirectional streams that a peer may have open at once: one per repo on the sync protocol,
/// one per request on the object protocol.
const MAX_BIDI_STREAMS: u32 = 256;
/// Unidirectional streams a peer may have open: gossip uses one per topic, each on a connection
/// of its own.
const MAX_UNI_STREAMS: u32 = 16;
/// What the round trip is taken to be until it is measured. Short, so that a dial is repeated
/// after 0.3 s instead of a second, and one given up at shutdown drains in a second instead of
/// three; on a longer path it costs a doubled first packet.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// A silent peer is asked for a sign of life this often; also keeps NAT mappings open.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// After this long without a sign of life a connection is lost, in milliseconds.
const IDLE_TIMEOUT_MS: u32 = 30_000;
/// Prefix of a second socket of one family: only the first is the default route.
const HOST_PREFIX_V4: u8 = 32;
/// Likewise for IPv6.
const HOST_PREFIX_V6: u8 = 128;

/// Opens the endpoint. `hints`: addresses of devices that the config names; they may change.
pub(crate) async fn open(
    options: &Options,
    access: &Arc<Access>,
    hints: MemoryLookup,
) -> Result<Endpoint, StartError> {
    let mut builder = Endpoint::builder(presets::Minimal)
        .secret_key(options.secret_key.clone())
        .alpns(access.alpns())
        .hooks(Gate(access.clone()))
        .transport_config(transport_config())
        .relay_mode(match &options.relay {
            Relay::Default => RelayMode::Default,
            Relay::Disabled => RelayMode::Disabled,
            Relay::Urls(urls) => RelayMode::custom(urls.iter().cloned()),
        })
        .address_lookup(hints);
    builder = builder.portmapper_config(if options.port_mapping {
        PortmapperConfig::default()
    } else {
        PortmapperConfig::Disabled
    });
    builder = bind_sockets(builder, &options.bind)?;
    for &discovery in &options.discovery {
        builder = add_discovery(builder, discovery, options.relay == Relay::Disabled);
    }
    builder.bind().await.map_err(|error| explain(error, &options.bind))
}

/// Explicit, because each of these limits either a transfer or what a peer can make us hold.
/// Congestion control stays iroh's default, Cubic: through bottlenecks of 100 and 400 Mbit/s with
/// queues of 32 to 512 kB and a short round trip it filled 85 to 92 % of the link.
fn transport_config() -> QuicTransportConfig {
    QuicTransportConfig::builder()
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_BIDI_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(MAX_UNI_STREAMS))
        .initial_rtt(INITIAL_RTT)
        .keep_alive_interval(KEEP_ALIVE)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .build()
}

fn bind_sockets(builder: Builder, addrs: &[SocketAddr]) -> Result<Builder, StartError> {
    if addrs.is_empty() {
        // The builder's own: any free port, IPv6 where the system has it.
        return Ok(builder);
    }
    let mut builder = builder.clear_ip_transports();
    let (mut v4, mut v6) = (false, false);
    for &addr in addrs {
        let (seen, prefix) =
            if addr.is_ipv4() { (&mut v4, HOST_PREFIX_V4) } else { (&mut v6, HOST_PREFIX_V6) };
        let opts = if std::mem::replace(seen, true) {
            BindOpts::default().set_prefix_len(prefix)
        } else {
            BindOpts::default()
        };
        builder = builder
            .bind_addr_with_opts(addr, opts)
            .map_err(|error| StartError::Bind { addr, source: io::Error::other(error) })?;
    }
    Ok(builder)
}

fn add_discovery(builder: Builder, discovery: Discovery, relayless: bool) -> Builder {
    // By default only relays are published, so that addresses stay private. Without a relay
    // nothing would be published at all, so there the addresses are.
    let filter = || if relayless { AddrFilter::unfiltered() } else { AddrFilter::relay_only() };
    match discovery {
        Discovery::Dns => builder
            .address_lookup(PkarrPublisher::n0_dns().addr_filter(filter()))
            .address_lookup(PkarrResolver::n0_dns())
            .address_lookup(DnsAddressLookup::n0_dns()),
        Discovery::Mdns => builder.address_lookup(MdnsAddressLookup::builder()),
        Discovery::Dht => builder.address_lookup(DhtAddressLookup::builder().addr_filter(filter())),
    }
}

/// Finds the address that made the bind fail: iroh does not say which.
fn explain(error: BindError, addrs: &[SocketAddr]) -> StartError {
    if matches!(error, BindError::Sockets { .. }) {
        for &addr in addrs {
            match UdpSocket::bind(addr) {
                Ok(_) => {}
                Err(source) if source.kind() == io::ErrorKind::AddrInUse => {
                    return StartError::Busy { addr, source };
                }
                Err(source) => return StartError::Bind { addr, source },
            }
        }
    }
    StartError::Endpoint(Box::new(error))
}
