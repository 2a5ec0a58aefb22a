/** The variant that `driver.js` calls; each generated configuration names its file. */
declare module 'variant' {
  export type Handler = (request: Request, env: object, context: object) => Promise<Response>;
  type Entrypoint = new (context: object, env: object) => { fetch(request: Request): Promise<Response> };
  const variant: { fetch: Handler } | Entrypoint;
  export default variant;
}
