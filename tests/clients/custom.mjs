// Checks objects of the Prometheus operator against its published definitions. Those refuse wrong types and missing
// fields, and say nothing of fields that nobody knows.
//   node --input-type=module - '{"objects": [{"kind": "ServiceMonitor", …}]}' < custom.mjs
// Prints one line of JSON: what is wrong with them.
import * as v1 from '@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1'

const { objects } = JSON.parse(process.argv[2])
const wrong = objects.flatMap(it => {
  try {
    new v1[it.kind](it).validate()
    return []
  } catch (error) {
    return [`${it.kind} ${it.metadata?.name}: ${error.message}`]
  }
})
console.log(JSON.stringify({ wrong }))
