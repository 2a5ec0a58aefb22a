# local-ae in a plain workerd, without Node:
#
#   workerd serve --experimental --directory-path=local-ae:disk=FOLDER workerd.capnp
#
# It needs the other files of this folder. FOLDER must exist. The Worker at 127.0.0.1:9311 writes
# each request as a data point (example/visits.js); the endpoint is at 127.0.0.1:9310.
#
# For your own Worker, import this file and use its constants as `config` does below.
using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    (name = "visits", worker = (
      modules = [(name = "visits.js", esModule = embed "example/visits.js")],
      compatibilityDate = "2026-07-01",
      bindings = [(name = "VISITS", wrapped = (
        moduleName = "local-ae:dataset",
        innerBindings = [(name = "native", analyticsEngine = (
          name = "local-ae:service",
          entrypoint = "ingest",
          props = (json = "{\"dataset\": \"visits\"}")
        ))]
      ))]
    )),
    .service,
    .disk
  ],
  sockets = [
    (name = "visits", address = "127.0.0.1:9311", http = (), service = "visits"),
    .endpoint
  ],
  extensions = [.extension]
);

const service :Workerd.Service = (name = "local-ae:service", worker = (
  modules = [
    (name = "service.js", esModule = embed "service.js"),
    (name = "api.js", esModule = embed "api.js"),
    (name = "ingest.js", esModule = embed "ingest.js"),
    (name = "ndjson.js", esModule = embed "ndjson.js"),
    (name = "point.js", esModule = embed "point.js"),
    (name = "sql.js", esModule = embed "sql.js"),
    (name = "store.js", esModule = embed "store.js"),
    (name = "engine.js", esModule = embed "build/engine.js"),
    (name = "engine.wasm", wasm = embed "build/engine.wasm")
  ],
  compatibilityDate = "2026-07-01",
  durableObjectNamespaces = [
    # After an eviction, the next query would have to read all points again.
    (
      className = "Store",
      uniqueKey = "local-ae-Store",
      enableSql = true,
      preventEviction = true
    )
  ],
  durableObjectStorage = (localDisk = "local-ae:disk"),
  bindings = [
    (name = "STORE", durableObjectNamespace = (className = "Store")),
    (name = "OPTIONS", json = "{\"retentionDays\": 90, \"maxRows\": 1000000, \"token\": null, \"allowedHosts\": []}")
  ]
));

# --directory-path sets the folder.
const disk :Workerd.Service = (name = "local-ae:disk", disk = (writable = true));

# Only the loopback address: by default, the endpoint accepts any token.
const endpoint :Workerd.Socket = (
  name = "local-ae:read",
  address = "127.0.0.1:9310",
  http = (),
  service = "local-ae:service"
);

const extension :Workerd.Extension = (
  modules = [(name = "local-ae:dataset", internal = true, esModule = embed "dataset.js")]
);
