declare module "ws" {
  export class WebSocket {
    constructor(url: string, protocols: string[], options: { perMessageDeflate: boolean });
  }
}
