/** What `driver.js` drives; each generated configuration says which one it is. */
declare module 'variant' {
  export type Handler = (request: Request, env: object, context: object) => Promise<Response>;
  type Entrypoint = new (context: object, env: object) => { fetch(request: Request): Promise<Response> };
  const variant: { fetch: Handler } | Entrypoint;
  export default variant;
}
